"""Errors and warnings: one tree, and every message says what was seen, where, and what to do next.

Each class derives from :class:`QKOVError` and from the built-in exception that a caller would expect, so that both
``except qkov.errors.QKOVError`` and ``except ValueError`` work. ``exit_status`` is what the command line ends with:
1 runs differ more than they may, 2 usage, 3 data, 4 model, 5 store damaged, 6 store busy, 7 disk, 8 memory, 130
interrupted. (1 is also what Python ends with after an error that nobody foresaw.)

Messages quote names of tasks, ids and files; read as text, they hold nothing that a terminal would obey.
"""

from . import escaping


class QKOVError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes:
        exit_status: What the command line ends with; 3, something is wrong with the data, unless a class says otherwise.
    """

    exit_status = 3

    def __str__(self):
        # KeyError shows the repr of its message; ours are sentences and must read as such.
        return escaping.for_terminal(" ".join(str(part) for part in self.args))


class OptionError(QKOVError, ValueError):
    """An option, or a combination of options, that has no meaning."""

    exit_status = 2


class ShapeError(QKOVError, ValueError):
    """Tensors whose shapes do not belong together."""


class PrecisionError(QKOVError, TypeError):
    """A number format too coarse for squared gradients."""


class LayoutError(QKOVError, ValueError):
    """An attention module whose heads cannot be located with certainty."""

    exit_status = 4


class ConfigError(QKOVError, ValueError):
    """A description of a run that lacks something, names something unknown, or holds a value without meaning."""

    exit_status = 2


class SliceIndexError(QKOVError, IndexError):
    """A layer, head or block that the model does not have."""

    exit_status = 2


class BatchError(QKOVError, ValueError):
    """A batch that cannot be turned into per-sample losses."""


class EmptyTaskError(QKOVError, ValueError):
    """A task without samples where at least one is needed."""


class UnknownTaskError(QKOVError, KeyError):
    """A task name that was never collected."""


class UnknownSampleError(QKOVError, KeyError):
    """A sample id that its task does not hold."""


class UnknownParameterError(QKOVError, KeyError):
    """A parameter name that is no attention projection of the collected model."""


class SampleIdError(QKOVError, ValueError):
    """Sample ids that are duplicated, mixed in type, or reused for another input."""


class ModelChangedError(QKOVError, ValueError):
    """A collector that holds gradients of another model, or of other weights."""

    exit_status = 4


class NonFiniteError(QKOVError, ArithmeticError):
    """A loss or a gradient that is NaN or infinite."""


class ModuleReuseError(QKOVError, RuntimeError):
    """A projection that runs more than once in a forward pass, or not at all."""

    exit_status = 4


class StatisticsError(QKOVError, ValueError):
    """Data or options for which a test, an interval or its claim would not be valid."""


class LawFailedError(QKOVError, ArithmeticError):
    """A law of the metric that does not hold on a model, or none that could be tried."""

    exit_status = 4


class RunsDifferError(QKOVError, ValueError):
    """Two runs that differ more than what is different in their making allows, or that measured different things."""

    exit_status = 1


class PatternError(QKOVError, ValueError):
    """A model that gives no attention patterns, or gives some that cannot be those of its heads."""

    exit_status = 4


class ResultFileError(QKOVError, ValueError):
    """A file that is not a result of this package, or is damaged."""


class TaskFileError(QKOVError, ValueError):
    """A file of samples that is missing, or of which a line cannot be used."""


class TokenizerError(QKOVError, ValueError):
    """A model without a tokenizer that can be loaded, or one that does not fit its model."""

    exit_status = 4


class RunFolderError(QKOVError, ValueError):
    """A folder that is no run, or one that is not complete or was edited."""


class StoreNotFoundError(QKOVError, FileNotFoundError):
    """A folder that holds no store."""


class StoreDamagedError(QKOVError, ValueError):
    """A store in which something that was committed is missing or not what was written."""

    exit_status = 5


class StoreVersionError(QKOVError, ValueError):
    """A store that another version of this package wrote."""

    exit_status = 5


class StoreMismatchError(QKOVError, ValueError):
    """A store that was collected with other settings than those asked for."""


class SealedStoreError(QKOVError, ValueError):
    """New samples for a store whose collection has ended."""


class UnsealedStoreError(QKOVError, ValueError):
    """A store whose collection has not ended, where scores would rest on part of the samples."""


class StoreBusyError(QKOVError, BlockingIOError):
    """A store that another process is writing to."""

    exit_status = 6


class DiskError(QKOVError, OSError):
    """A write that the system refused, or a plan that does not fit the disk; ``errno`` is the system's."""

    exit_status = 7


class MemoryLimitError(QKOVError, MemoryError):
    """A plan, or a single sample, that does not fit the memory."""

    exit_status = 8


class CollectionInterrupted(QKOVError, KeyboardInterrupt):
    """A collection that a signal ended between two passes; what was committed is kept."""

    exit_status = 130


class RanksDifferError(QKOVError, ValueError):
    """Processes that compute one thing together and were given, or do, different things."""

    exit_status = 2


class RankFailedError(QKOVError, ConnectionError):
    """Another process that ended, failed, or was not heard of in time; what was committed is kept."""

    exit_status = 130


class QKOVWarning(UserWarning):
    """Base of every warning of this package: the result is defined but easy to misread."""

    def __str__(self):
        return escaping.for_terminal(super().__str__())


class EmptyTaskWarning(QKOVWarning):
    """Task B holds no samples; scores have a zero-length axis and averages are zero."""


class SkippedSamplesWarning(QKOVWarning):
    """Samples whose loss or gradient is not finite were left out, as was asked for."""


class FewSamplesWarning(QKOVWarning):
    """The Fisher diagonal rests on fewer samples than asked for."""


class DampingWarning(QKOVWarning):
    """Damping dominates the Fisher diagonal, so that normalisation is switched off."""


class UnderflowWarning(QKOVWarning):
    """Squared gradients that are too small for the number format they are kept in, so that scores are zero."""


class StatisticsWarning(QKOVWarning):
    """A test that cannot reject, or that is weaker or broader than it looks."""


class StoreWarning(QKOVWarning):
    """A store that can be used but was made or left in a way that its reader should know of."""
