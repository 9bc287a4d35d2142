"""Top-1 accuracy: what every other probe stands beside."""

from collections.abc import Iterator

from sartor.analysis.data_pass import Outputs
from sartor.analysis.intervals import share_interval
from sartor.analysis.registry import probe
from sartor.analysis.rows import Reading


@probe(
    "accuracy",
    source="Wilson 1927, doi:10.1080/01621459.1927.10502953 (the interval)",
    bias="none: the share of the samples that were looked at; the interval is that of all samples like them",
)
def accuracy(outputs: Outputs) -> Iterator[Reading]:
    """Share of the samples whose largest logit is that of their class; a sample with NaN logits counts as wrong."""
    right = (outputs.logits.argmax(1) == outputs.labels) & ~outputs.logits.isnan().any(1)
    yield share_reading("accuracy", int(right.sum()), len(right))


def share_reading(quantity: str, hits: int, n: int, layer: str = "") -> Reading:
    """A share in percent with Wilson's interval."""
    low, high = share_interval(hits, n)
    return Reading(quantity, 100 * hits / n if n else None, layer, (100 * low, 100 * high), "%")
