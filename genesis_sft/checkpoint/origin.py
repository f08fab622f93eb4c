"""Where a base model comes from: what decides it, and how it is read (``base`` lists the forms in a recipe)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from genesis_sft.assets import PACKAGED_MODELS, PackagedModel, Wheel, extract_member
from genesis_sft.checkpoint.model_dir import CONFIG, TOKENIZER, ModelDir
from genesis_sft.checkpoint.tensors.kinds import checkpoint_files, is_checkpoint
from genesis_sft.checkpoint.tokenizer_files import find_tokenizer
from genesis_sft.errors import ModelError
from genesis_sft.recipe.sections import BaseSection, ConventionsSection
from genesis_sft.run_dir import hash_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_GGUF_MAGIC = b"GGUF"
_HASHED_BYTES = 64 * 1024 * 1024
_TOKENIZER_FILES = (TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def base_identity(section: BaseSection) -> dict[str, str]:
    """Return what decides the base model, for the stage's key: hashes of its files, or its pinned name. Needs no torch.

    Files of a folder over 64 MB (its weights) enter by size and time of change instead of by hash, so that a plan does
    not read gigabytes; copying such a file anew redoes the stage, which is safe. A GGUF file is hashed.

    Raises:
        ModelError: There is no model at that place, or one of a kind that cannot be used.
    """
    if not section.is_local or (Path(section.model).exists() and not is_checkpoint(Path(section.model))):
        refuse_what_describes_checkpoints(section)
    if package := _package(section):
        return {"wheel": f"{package.wheel.requirement} {package.wheel.sha256}", "member": package.member}
    if section.model.startswith("hub:"):
        return {"hub": f"{section.model.removeprefix('hub:')} {section.revision}"}
    path = _local(section)
    if is_checkpoint(path):
        return _identify_checkpoint(section, path)
    if path.is_file():
        return {"gguf": hash_file(path), **_identify_texts(section)}
    ModelDir.open(path)
    files = [path / CONFIG, *(path / name for name in _TOKENIZER_FILES), *sorted(path.glob("*.safetensors*"))]
    return {file.name: _identify(file) for file in files if file.is_file()} | _identify_texts(section)


def read_base(section: BaseSection) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Return model (float32, eval mode) and tokenizer from wherever the recipe says."""
    refuse_what_describes_checkpoints(section)
    if package := _package(section):
        path = extract_member(package.wheel, package.member)
    elif section.model.startswith("hub:"):
        from genesis_sft.checkpoint.from_hub import fetch_snapshot

        path = fetch_snapshot(section.model.removeprefix("hub:"), str(section.revision))
    else:
        path = _local(section)
    if path.is_file():
        from genesis_sft.checkpoint.from_gguf import read_gguf

        return read_gguf(path)
    from genesis_sft.checkpoint.from_folder import read_folder

    return read_folder(path)


def refuse_what_describes_checkpoints(section: BaseSection) -> None:
    """Raise if the section describes a pretraining checkpoint, where the model is none: it would be ignored.

    Raises:
        ModelError: It does.
    """
    described = [name for name in ("tokenizer", "config", "names", "root") if getattr(section, name) is not None]
    described += ["conventions"] if section.conventions != ConventionsSection() else []
    if described:
        raise ModelError(
            f"{', '.join(described)} describe a pretraining checkpoint, and {section.model} is none: it brings its own",
            hint="Leave them out.",
        )


def base_wheel(section: BaseSection) -> Wheel | None:
    """Return the wheel that the base model comes from, for a plan that says what has to be downloaded."""
    package = _package(section)
    return package.wheel if package else None


def _package(section: BaseSection) -> PackagedModel | None:
    if not section.model.startswith("package:"):
        return None
    name = section.model.removeprefix("package:")
    if name not in PACKAGED_MODELS:
        raise ModelError(f"expected package:{' or package:'.join(PACKAGED_MODELS)}; found package:{name}")
    return PACKAGED_MODELS[name]


def _local(section: BaseSection) -> Path:
    """Return the local folder or GGUF file that the recipe names."""
    path = Path(section.model)
    if not path.exists():
        raise ModelError(
            f"expected a model folder, checkpoint or .gguf file at {path}; there is nothing",
            hint="base.model may also be package:smollm2-135m-instruct or hub:owner/name.",
        )
    if path.is_file() and not _is_gguf(path) and not is_checkpoint(path):
        raise ModelError(f"expected a model folder, checkpoint or .gguf file at {path}; found a file of another kind")
    return path


def _identify_checkpoint(section: BaseSection, path: Path) -> dict[str, str]:
    """Return hashes of the checkpoint, its tokenizer, and what the recipe names beside it."""
    named = {"config": section.config, "names": section.names}
    files = {f"{role} file": Path(file) for role, file in named.items() if file is not None}
    files |= {"tokenizer": find_tokenizer(section.tokenizer, path)}
    for role, file in files.items():
        if not file.is_file():
            raise ModelError(f"expected the {role} of the checkpoint at {file}; there is no such file")
    weights = {file.name: _identify(file) for file in checkpoint_files(path)}
    return weights | {role: hash_file(file) for role, file in files.items()} | _identify_texts(section)


def _identify_texts(section: BaseSection) -> dict[str, str]:
    """Return hashes of the texts that the check reads."""
    for text in section.text:
        if not Path(text).is_file():
            raise ModelError(f"expected a text file at {text} (base.text); there is none")
    return {f"text {number}": hash_file(Path(text)) for number, text in enumerate(section.text)}


def _is_gguf(path: Path) -> bool:
    with open(path, "rb") as handle:
        return handle.read(len(_GGUF_MAGIC)) == _GGUF_MAGIC


def _identify(file: Path) -> str:
    status = file.stat()
    if status.st_size > _HASHED_BYTES:
        return f"{status.st_size} bytes, changed {status.st_mtime_ns}"
    return hash_file(file)
