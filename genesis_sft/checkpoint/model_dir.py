"""A model on disk: a Hugging Face folder with config, safetensors weights and tokenizer.

Opening one looks at files only. Loading one never runs code that lies in the folder, never opens a pickle, and refuses
weights that do not fit the architecture: a tensor that is missing would be left at random values.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genesis_sft.checkpoint.quiet import quiet_transformers
from genesis_sft.errors import ModelError
from genesis_sft.run_dir import hash_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

WEIGHTS, WEIGHTS_INDEX, CONFIG, TOKENIZER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "tokenizer.json",
)
_BUFFERS_OF_OLD_EXPORTS = ("rotary_emb.inv_freq",)  # computed from the config, stored by older programs
_MOST_NAMES_SHOWN = 4
# checked before loading: with these wrong, a model can load and fail much later
_SIZES = {"vocab_size": 1, "max_position_embeddings": 2, "n_positions": 2}  # and the least that can be meant
_NUMBERS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "initializer_range")


@dataclass(frozen=True)
class ModelDir:
    """A Hugging Face model folder.

    Attributes:
        path: The folder; holds ``config.json``, ``model.safetensors`` (or shards and their index), ``tokenizer.json``.
    """

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> ModelDir:
        """Return the folder as a model after a look at its files.

        Raises:
            ModelError: ``config.json``, safetensors weights or ``tokenizer.json`` are missing, or it is another kind of
                checkpoint.
        """
        folder = Path(path)
        _refuse_other_kinds(folder)
        _require_config(folder)
        _require_weights(folder)
        _require_tokenizer(folder)
        return cls(folder)

    @property
    def config(self) -> dict[str, Any]:
        """The values of ``config.json``."""
        return _read_json(self.path / CONFIG)

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding, as the config states them."""
        return int(self.config["vocab_size"])

    def load_tokenizer(self) -> PreTrainedTokenizerFast:
        """Return the tokenizer that ``tokenizer.json`` describes.

        Raises:
            ModelError: The file cannot be read, or its vocabulary is empty.
        """
        return load_tokenizer_file(self.path / TOKENIZER)

    def load_model(self, dtype: str = "float32", device: str = "cpu", attention: str = "sdpa") -> PreTrainedModel:
        """Return the model in eval mode.

        Args:
            dtype: ``"float32"`` or ``"bfloat16"``.
            device: Where the weights go, e.g. ``"cuda:0"``.
            attention: Attention implementation, by the name it is registered under.

        Raises:
            ModelError: The architecture is no causal language model, or the weights do not fit it.
        """
        import torch
        from transformers import AutoModelForCausalLM

        self._require_causal_lm()
        try:
            with quiet_transformers():
                model, report = AutoModelForCausalLM.from_pretrained(
                    self.path,
                    local_files_only=True,
                    use_safetensors=True,
                    trust_remote_code=False,
                    dtype=getattr(torch, dtype),
                    attn_implementation=attention,
                    output_loading_info=True,
                )
        except Exception as error:  # whatever the architecture's code met, this folder cannot be used
            if "ignore_mismatched_sizes" in str(error):
                raise ModelError(
                    f"the weights at {self.path} have other shapes than its config.json describes",
                    hint="Compare vocab_size, hidden_size and the other sizes there with the shapes in the weights.",
                ) from None
            raise ModelError(f"the model at {self.path} cannot be loaded: {_in_short(error)}") from None
        self._refuse_misfit(report)
        return model.to(device).eval()

    def content_hash(self) -> str:
        """Return the hex SHA-256 over the names and bytes of config, weights and ``tokenizer.json``."""
        weights = sorted(path.name for path in self.path.glob("*.safetensors*"))
        lines = [f"{name} {hash_file(self.path / name)}\n" for name in (CONFIG, TOKENIZER, *weights)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _require_causal_lm(self) -> None:
        """Refuse what cannot continue a text: encoders, classifiers, and models that need code of their own."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL_LMS

        config = self.config
        kind, named = config.get("model_type"), config.get("architectures")
        if not isinstance(kind, str) or kind not in CAUSAL_LMS:
            own_code = " (it brings its own code, which is never run)" if "auto_map" in config else ""
            raise ModelError(
                f"expected a causal language model at {self.path}; found model_type {kind!r}, "
                f"which transformers has no causal language model for{own_code}",
                hint="Llama, Qwen, Mistral, Gemma, GPT-2 and their like can be used.",
            )
        if named and isinstance(named, list) and CAUSAL_LMS[kind] not in named:
            raise ModelError(
                f"expected a causal language model ({CAUSAL_LMS[kind]}) at {self.path}; the config says that it is "
                f"{', '.join(map(str, named))}, which has no head that predicts the next token",
            )

    def _refuse_misfit(self, report: dict[str, Any]) -> None:
        missing = sorted(map(str, report["missing_keys"])) + sorted(str(key) for key in report["mismatched_keys"])
        unexpected = sorted(key for key in report["unexpected_keys"] if not key.endswith(_BUFFERS_OF_OLD_EXPORTS))
        if missing or unexpected:
            parts = [f"{len(missing)} tensors are missing ({_some(missing)})"] if missing else []
            parts += [f"{len(unexpected)} have no place in it ({_some(unexpected)})"] if unexpected else []
            raise ModelError(
                f"the weights at {self.path} do not fit the architecture in its config.json: {'; '.join(parts)}",
                hint="Compare the names in the weights with those of the architecture: missing ones would be random.",
            )


def load_tokenizer_file(file: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer that a ``tokenizer.json`` and the files beside it describe.

    Raises:
        ModelError: The file cannot be read, or its vocabulary is empty.
    """
    from transformers import PreTrainedTokenizerFast

    try:
        with quiet_transformers():
            if file.name == TOKENIZER:
                tokenizer = PreTrainedTokenizerFast.from_pretrained(file.parent, local_files_only=True)
            else:
                tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file))
    except Exception as error:  # the tokenizers library raises bare Exception on a malformed file
        raise ModelError(f"{file} cannot be read: {_in_short(error)}") from None
    if not tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=False):
        raise ModelError(f"expected a vocabulary in {file}; it is empty")
    return tokenizer


def _refuse_other_kinds(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(f"expected a Hugging Face model folder at {folder}; there is nothing")
    if (folder / ".metadata").exists():
        raise ModelError(
            f"expected a Hugging Face model folder at {folder}; it is a PyTorch DCP checkpoint (.metadata and shards)",
            hint="genesis-sft base convert makes a Hugging Face folder of it.",
        )
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} is an adapter (adapter_config.json), not a whole model",
            hint="Merge it into its base model first (PEFT: merge_and_unload), then name the merged folder.",
        )


def _require_config(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise ModelError(f"expected {CONFIG} in {folder}; it is missing", hint=_holds(folder))
    config = _read_json(folder / CONFIG)
    for name, value in config.items():
        if name in _SIZES and value is not None and (type(value) is not int or value < _SIZES[name]):
            raise ModelError(
                f"expected a whole number of at least {_SIZES[name]} as {name} in {folder / CONFIG}; found {value!r}"
            )
        if name in _NUMBERS and type(value) not in (int, float):
            raise ModelError(f"expected a number as {name} in {folder / CONFIG}; found {value!r}")
    if config.get("vocab_size") is None:
        raise ModelError(f"expected a number vocab_size in {folder / CONFIG}; there is none")
    if "quantization_config" in config:
        raise ModelError(
            f"the weights in {folder} are quantised (quantization_config in {CONFIG}); they cannot be trained",
            hint="Name the model in float32, bfloat16 or float16.",
        )
    if "transformers_weights" in config:  # would have other files loaded than those that were looked at
        raise ModelError(f"{folder / CONFIG} redirects to other weight files (transformers_weights); remove that line")


def _require_weights(folder: Path) -> None:
    if (folder / WEIGHTS).is_file():
        return
    if not (folder / WEIGHTS_INDEX).is_file():
        if any(folder.glob("pytorch_model*.bin")):
            raise ModelError(
                f"expected safetensors weights in {folder}; found pytorch_model.bin only, which is a pickle: opening "
                "it can run any code, so it is never opened",
                hint='If you trust where it comes from, convert it: python -c "from transformers import '
                "AutoModelForCausalLM as M; M.from_pretrained('OLD').save_pretrained('NEW')\" - and copy the tokenizer",
            )
        raise ModelError(f"expected {WEIGHTS} or {WEIGHTS_INDEX} in {folder}; both are missing", hint=_holds(folder))
    weight_map = _read_json(folder / WEIGHTS_INDEX).get("weight_map")
    shards = list(weight_map.values()) if isinstance(weight_map, dict) else []
    bad = sorted({str(name) for name in shards if not _is_shard(folder, name)})
    if bad or not shards:
        raise ModelError(
            f"expected {folder / WEIGHTS_INDEX} to list safetensors files of the same folder; "
            f"missing or of another kind: {_some(bad) or 'all of them'}",
        )


def _is_shard(folder: Path, name: object) -> bool:
    return (
        isinstance(name, str)
        and name.endswith(".safetensors")
        and Path(name).name == name
        and (folder / name).is_file()
    )


def _require_tokenizer(folder: Path) -> None:
    if (folder / TOKENIZER).is_file():
        return
    if (folder / "tokenizer.model").exists():
        raise ModelError(
            f"expected {TOKENIZER} in {folder}; found tokenizer.model (SentencePiece) only",
            hint="Keep config.json out of the folder, and genesis-sft base convert converts weights and tokenizer.",
        )
    raise ModelError(f"expected {TOKENIZER} in {folder}; it is missing", hint=_holds(folder))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise ModelError(f"expected a JSON object in {path}; found a {type(values).__name__}")
    return values


def _holds(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return f"The folder holds: {_some(names)}." if names else "The folder is empty."


def _some(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES_SHOWN
    return ", ".join(names[:_MOST_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _in_short(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else text[:297] + "..."
