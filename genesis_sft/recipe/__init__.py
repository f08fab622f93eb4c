"""A recipe: one YAML file that says what a run does. ``sections`` holds its fields, ``load`` reads it."""

from genesis_sft.recipe.load import data_recipe, load_recipe, recipe_json_schema, resolved_yaml
from genesis_sft.recipe.sections import (
    BaseSection,
    BatchSection,
    DataRecipe,
    DataSection,
    EvalsSection,
    ExportSection,
    HeldOutSection,
    Recipe,
    SourceSection,
    TaskSection,
    TokensSection,
    TrainingSection,
)

__all__ = [
    "BaseSection",
    "BatchSection",
    "DataRecipe",
    "DataSection",
    "EvalsSection",
    "ExportSection",
    "HeldOutSection",
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
