"""A recipe: one YAML file that says what a run does. ``sections`` begins with its fields, ``load`` reads it."""

from genesis_sft.recipe.data import DataSection, SourceSection
from genesis_sft.recipe.evals import EvalsSection, HeldOutSection, TaskSection, nearest_task
from genesis_sft.recipe.load import (
    data_recipe,
    load_recipe,
    load_synthesis,
    recipe_json_schema,
    resolved_yaml,
)
from genesis_sft.recipe.sections import (
    BaseSection,
    DataRecipe,
    ExportSection,
    Recipe,
    SynthesisRecipe,
    TokensSection,
)
from genesis_sft.recipe.synthesis import (
    PriceSection,
    ProviderSection,
    ScreeningSection,
    StepsSection,
    SynthesisSection,
)
from genesis_sft.recipe.training import (
    CUTTING_FIELDS,
    BatchSection,
    CheckpointSection,
    EmbeddingSection,
    MonitorSection,
    TrainingSection,
)
from genesis_sft.recipe.yaml_model import read_yaml_model

__all__ = [
    "CUTTING_FIELDS",
    "BaseSection",
    "BatchSection",
    "CheckpointSection",
    "DataRecipe",
    "DataSection",
    "EmbeddingSection",
    "EvalsSection",
    "ExportSection",
    "HeldOutSection",
    "MonitorSection",
    "PriceSection",
    "ProviderSection",
    "Recipe",
    "ScreeningSection",
    "SourceSection",
    "StepsSection",
    "SynthesisRecipe",
    "SynthesisSection",
    "TaskSection",
    "TokensSection",
    "TrainingSection",
    "data_recipe",
    "load_recipe",
    "load_synthesis",
    "nearest_task",
    "read_yaml_model",
    "recipe_json_schema",
    "resolved_yaml",
]
