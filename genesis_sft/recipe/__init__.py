"""A recipe: one YAML file that says what a run does. ``sections`` holds its fields, ``load`` reads it."""

from genesis_sft.recipe.load import data_recipe, load_recipe, recipe_json_schema, resolved_yaml
from genesis_sft.recipe.sections import (
    BaseSection,
    DataRecipe,
    DataSection,
    EvalsSection,
    ExportSection,
    HeldOutSection,
    Recipe,
    SourceSection,
    TaskSection,
    TokensSection,
)
from genesis_sft.recipe.training import (
    CUTTING_FIELDS,
    BatchSection,
    CheckpointSection,
    EmbeddingSection,
    MonitorSection,
    TrainingSection,
)

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
    "Recipe",
    "SourceSection",
    "TaskSection",
    "TokensSection",
    "TrainingSection",
    "data_recipe",
    "load_recipe",
    "recipe_json_schema",
    "resolved_yaml",
]
