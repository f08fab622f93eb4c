"""``python -m genesis_sft.recipe`` prints the JSON Schema of recipes."""

import json

from genesis_sft.recipe.load import recipe_json_schema

if __name__ == "__main__":
    print(json.dumps(recipe_json_schema(), indent=2))
