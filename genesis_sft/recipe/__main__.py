"""``python -m genesis_sft.recipe schema`` prints the JSON Schema of recipes, ``reference`` their fields as Markdown."""

import json
import sys

from genesis_sft.recipe.load import recipe_json_schema
from genesis_sft.recipe.reference import recipe_reference

if __name__ == "__main__":
    if sys.argv[1:] == ["reference"]:
        print(recipe_reference(), end="")
    else:
        print(json.dumps(recipe_json_schema(), indent=2))
