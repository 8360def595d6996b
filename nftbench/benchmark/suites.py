"""Suites: benchmarks that are run together, and the table that they make."""

from pydantic import Field, model_validator

from nftbench.benchmark.faults import refuse_repeated
from nftbench.benchmark.schema import Frozen, SamplingSettings
from rewards.base import Metric


class Column(Frozen):
    """One metric of a suite's table."""

    name: str
    """Heading, as the paper has it."""
    benchmark: str
    metric: str
    """As in `Row.metric`: `geneval`, `geneval:correct`."""
    variant: str = ""
    aggregate: str = "image_mean"
    """As in `Row.aggregate`."""
    settings: SamplingSettings = SamplingSettings()
    """Of this cell alone: they replace the suite's, and what a flag says too."""
    digits: int = Field(default=3, ge=0)
    held_out: bool = False
    """Not trained on by the models of the paper."""

    @property
    def reward(self) -> str:
        """Key of the reward that fills the cell."""
        return Metric(Metric.parse(self.metric).name, self.variant).key


class SuiteRow(Frozen):
    """A row that a command makes."""

    label: str
    checkpoint: str
    """As `nftbench eval` takes it."""
    settings: SamplingSettings = SamplingSettings()
    """Given as flags: `--guidance-scale 4.5`."""


class PrintedLine(Frozen):
    """Where a published line, and ours that are held against it, stand in the table."""

    label: str
    """Of the published rows, or of one of `rows`."""
    shown: str = ""
    """As the paper writes it; empty is the label."""
    group: int = Field(default=0, ge=0)
    """Lines of one group stand together; a rule parts them from the next."""
    trained_on: tuple[str, ...] = ()
    """Names of the columns whose reward the model was trained on: in-domain."""


class Suite(Frozen):
    """Benchmarks that are run together, and the table they make: one TOML of `benchmarks/suites/`."""

    name: str
    title: str
    citation: str = ""
    published: str = ""
    """Name of the published protocol whose rows are the table's; empty where there is none."""
    benchmarks: tuple[str, ...] = Field(min_length=1)
    settings: SamplingSettings = SamplingSettings()
    columns: tuple[Column, ...] = ()
    rows: tuple[SuiteRow, ...] = ()
    lines: tuple[PrintedLine, ...] = ()
    """The order and the groups of the table's lines; those that it does not name come last."""

    @model_validator(mode="after")
    def _columns_are_run(self) -> "Suite":
        refuse_repeated(self.benchmarks, "benchmark")
        refuse_repeated((column.name for column in self.columns), "column's name")
        strange = {c.benchmark for c in self.columns} - set(self.benchmarks)
        if strange:
            raise ValueError(f"columns name {min(strange)}, which is none of the benchmarks")
        names = {column.name for column in self.columns}
        unknown = {name for line in self.lines for name in line.trained_on} - names
        if unknown:
            raise ValueError(f"trained_on names {min(unknown)}, which is none of the columns")
        return self

    def line(self, label: str) -> PrintedLine:
        """How a label stands in the table; behind all others where nothing is said of it."""
        last = max((line.group for line in self.lines), default=-1) + 1
        named = (line for line in self.lines if line.label == label)
        return next(named, PrintedLine(label=label, group=last))
