"""What to build, as a value: from Python, from the command line's options, or from a TOML file with the same names."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

from quantkit.arch.mtp import CHOICES, DROP
from quantkit.arch.rope_override import RopeOverride, read_override
from quantkit.errors import QuantkitError
from quantkit.ggml.types import UNQUANTIZED, ftype_name
from quantkit.hub.adapter_source import AdapterSource
from quantkit.hub.matrix import Matrix, local_matrix
from quantkit.hub.source import Source, source_label
from quantkit.jobs.arguments import AdaptersInput, PathInput, SourceInput, TextsInput, read_choice
from quantkit.jobs.fields import refuse_unknown
from quantkit.jobs.model_name import model_name
from quantkit.jobs.recipe_fields import RECIPE_FIELDS, RecipeKeywords
from quantkit.jobs.run_options import RUN_NAMES, RunKeywords, RunOptions, run_options
from quantkit.material.data_file import CALIBRATION
from quantkit.plan.choice import BITS, FIT, SIZE, Asked
from quantkit.plan.type_choices import TypeChoices, parse_choices
from quantkit.system.progress import Reporter

# What decides the size of the file whose types are chosen.
_SIZES = (SIZE, BITS, FIT)
_CHOSEN = "the types of all tensors are chosen"
_NOT_WITH_A_SIZE = {
    "pure": _CHOSEN,
    "leave_output_tensor": _CHOSEN,
    "output_tensor_type": _CHOSEN,
    "token_embedding_type": _CHOSEN,
    "tensor_types": _CHOSEN,
    "split_max_size": "the size is that of one file",
    "via_llama_cpp": "the choice needs the model as quantkit itself reads it",
}


@dataclass(frozen=True, init=False)
class Recipe:
    """A request for a package. Each field takes what a person writes, and holds what it means:

    ``model="org/name"``, ``adapters="my-lora"`` or a list of adapters (each a path or hub id, alone or as a pair with
    its weight), ``quants="q4_0"`` or a list, ``parameters={"temperature": 0.2}``, paths as ``str`` or ``Path``.

    What each field does is said by ``quantkit build --help`` and by docs/reference.md.
    """

    model: Source
    adapters: tuple[AdapterSource, ...]
    quants: tuple[str, ...]
    out: Path | None
    name: str
    merge_again: bool
    size: int | None
    bits: float | None
    fit: int | None
    choice_data: Path | None
    keep_f16: bool
    outtype: str
    template: str
    thinking: str | None
    system: str | None
    parameters: tuple[tuple[str, str], ...]
    rope_scaling: str | None
    rope_theta: float | None
    mtp: str
    imatrix: Matrix | None
    calibrate: Path | None
    pure: bool
    leave_output_tensor: bool
    output_tensor_type: str | None
    token_embedding_type: str | None
    tensor_types: tuple[str, ...]
    split_max_size: int | None
    adapter_gguf: bool
    mmproj: bool
    ignore: tuple[str, ...]
    via_llama_cpp: Path | None
    messages: tuple[tuple[str, str], ...]

    def __init__(
        self,
        model: SourceInput,
        adapters: AdaptersInput = (),
        quants: TextsInput | None = None,
        out: PathInput | None = None,
        name: str = "",
        **others: Unpack[RecipeKeywords],
    ) -> None:
        """Read what a person wrote.

        Args:
            model: folder of the base model, or a hub id.
            adapters: one or several, merged in this order.
            quants: quantization types, the first of them the package's default; default q4_0, or none with *size*,
                *bits* or *fit*, whose file is then the package's default.
            out: folder to create; default ``./NAME``.
            name: of the model; default the names of model and adapters.
            **others: the other fields.

        Raises:
            QuantkitError: an unknown field, a value of another kind, or values that do not go together.
        """
        if quants is None:
            sized = any(others.get(key) is not None for key in _SIZES)
            quants = () if sized else RECIPE_FIELDS["quants"].default
        given = {"model": model, "adapters": adapters, "quants": quants, "out": out, "name": name, **others}
        for key in given:
            if key in RUN_NAMES:
                raise QuantkitError(
                    f"{key} is not a field of a recipe: it says how to build, not what",
                    hint=f"give it to the build: quantkit.build(recipe, {key}=...)",
                )
        refuse_unknown(given, RECIPE_FIELDS, what="argument")
        for key, field in RECIPE_FIELDS.items():
            object.__setattr__(self, key, field.read(given.get(key, field.default)))
        self._check()

    def _check(self) -> None:
        read_choice("outtype", self.outtype, UNQUANTIZED)
        object.__setattr__(self, "quants", tuple(dict.fromkeys(ftype_name(quant) for quant in self.quants)))
        self._check_size()
        if not self.quants and not self.keep_f16 and self.asked is None:
            raise QuantkitError("nothing to build: no quantization type", hint="pass --quant q4_0")
        if self.adapter_gguf and not self.adapters:
            raise QuantkitError("--adapter-gguf: there is no adapter", hint="pass --adapter DIR")
        if self.thinking is not None:
            read_choice("thinking", self.thinking, ("on", "off"))
        read_choice("mtp", self.mtp, CHOICES)
        if self.mtp == DROP and self.via_llama_cpp is not None:
            raise QuantkitError(
                "--mtp drop cannot go with --via-llama-cpp: the converter decides what it writes",
                hint="leave out --mtp, or convert with llama.cpp's own --no-mtp",
            )
        if self.rope and self.via_llama_cpp is not None:
            raise QuantkitError(
                "--rope-scaling and --rope-theta cannot go with --via-llama-cpp: the converter reads config.json",
                hint="write rope_scaling and rope_theta into the model's config.json",
            )
        if self.calibrate is not None:
            self._check_calibration()
        self.choices  # noqa: B018  what they cannot mean is refused here
        merged = [adapter.source for adapter in self.adapters]
        object.__setattr__(self, "name", model_name(self.name, self.model, merged))

    def _check_size(self) -> None:
        given = [key for key in _SIZES if getattr(self, key) is not None]
        if len(given) > 1:
            raise QuantkitError(
                f"{_flag(given[0])} and {_flag(given[1])} cannot be combined: each decides the size of the file",
                hint="leave out one of the two",
            )
        if self.choice_data is not None and not given:
            raise QuantkitError(
                "--choice-data has no effect: no size is asked for", hint="pass --size 4.5GB, or leave it out"
            )
        for key in given:
            if other := next((other for other in _NOT_WITH_A_SIZE if getattr(self, other)), None):
                raise QuantkitError(
                    f"{_flag(key)} and {_flag(other)} cannot be combined: {_NOT_WITH_A_SIZE[other]}",
                    hint=f"leave out {_flag(other)}",
                )

    @property
    def asked(self) -> Asked | None:
        """The size that the types of tensors are to be chosen for."""
        return next((Asked(key, value) for key in _SIZES if (value := getattr(self, key)) is not None), None)

    def _check_calibration(self) -> None:
        if self.imatrix is not None:
            raise QuantkitError(
                "--calibrate and --imatrix cannot go together: one makes what the other gives",
                hint="leave out one of the two",
            )
        if self.via_llama_cpp is not None:
            raise QuantkitError(
                "--calibrate cannot go with --via-llama-cpp",
                hint="quantkit imatrix CONVERTED.gguf -o imatrix.gguf, and then build with --imatrix imatrix.gguf",
            )

    @cached_property
    def choices(self) -> TypeChoices:
        """The choices of types for single tensors."""
        return parse_choices(
            pure=self.pure,
            leave_output_tensor=self.leave_output_tensor,
            output_tensor_type=self.output_tensor_type,
            token_embedding_type=self.token_embedding_type,
            tensor_types=self.tensor_types,
        )

    @cached_property
    def rope(self) -> RopeOverride:
        """The rotary settings that replace those of config.json."""
        return read_override(self.rope_scaling, self.rope_theta)

    @property
    def folder(self) -> Path:
        """The folder to make."""
        return self.out or Path(self.name)

    def to_json(self) -> dict[str, Any]:
        """For the manifest: what to make, without the folder that it is written to."""
        plain = asdict(self)
        del plain["out"]
        plain["model"] = source_label(self.model)
        plain["adapters"] = [
            label if adapter.weight == 1 else {"path": label, "weight": adapter.weight}
            for adapter in self.adapters
            for label in (source_label(adapter.source),)
        ]
        plain["choice_data"] = self.choice_data.name if self.choice_data else None
        plain["imatrix"] = self.imatrix.name if isinstance(self.imatrix, Path) else self.imatrix and str(self.imatrix)
        plain["calibrate"] = None if self.calibrate is None else calibration_name(self.calibrate)
        plain["parameters"] = [list(pair) for pair in self.parameters]
        plain["messages"] = [list(pair) for pair in self.messages]
        plain["quants"] = list(self.quants)
        plain["tensor_types"] = list(self.tensor_types)
        plain["ignore"] = list(self.ignore)
        plain["via_llama_cpp"] = self.via_llama_cpp.name if self.via_llama_cpp else None
        plain["template"] = Path(self.template).name
        return plain


def _flag(key: str) -> str:
    return RECIPE_FIELDS[key].flags[0]


def with_local_matrix(recipe: Recipe, reporter: Reporter) -> Recipe:
    """The recipe with a matrix that is a file here; one on a hub is downloaded.

    Raises:
        HubError: it cannot be downloaded.
    """
    if recipe.imatrix is None or isinstance(recipe.imatrix, Path):
        return recipe
    return replace(recipe, imatrix=local_matrix(recipe.imatrix, reporter))


def calibration_name(data: Path) -> str:
    """What stands for the data in a manifest: a file's name, or ``auto``."""
    return "auto" if data == CALIBRATION else data.name


class BuildKeywords(RecipeKeywords, RunKeywords, total=False):
    """The keyword arguments of :func:`quantkit.jobs.build.build`: a recipe's fields and the options of a run."""

    adapters: AdaptersInput
    quants: TextsInput
    out: PathInput | None
    name: str


def read_request(
    model: Recipe | SourceInput, run: RunOptions | None, **keywords: Unpack[BuildKeywords]
) -> tuple[Recipe, RunOptions]:
    """What to build, and how, from the arguments of a call.

    Args:
        model: the recipe, or its model.
        run: the options of the run, before those among the keywords.
        **keywords: options of the run, and the other fields of the recipe.

    Raises:
        QuantkitError: an unknown keyword, a value of another kind, or fields besides a whole recipe.
    """
    refuse_unknown(keywords, (*RECIPE_FIELDS, *RUN_NAMES), what="argument")
    fields: Any = {key: value for key, value in keywords.items() if key in RECIPE_FIELDS}
    options: Any = {key: value for key, value in keywords.items() if key not in RECIPE_FIELDS}
    if isinstance(model, Recipe):
        if fields:
            raise QuantkitError(
                f"{next(iter(fields))} is given besides a recipe",
                hint="put it into the recipe: dataclasses.replace(recipe, FIELD=VALUE)",
            )
        return model, run_options(run, **options)
    return Recipe(model, **fields), run_options(run, **options)
