import pytest

from sartor.errors import BadInput, UnknownName
from sartor.sources.spec import choice, known_options, numbers, parse_spec, whole


@pytest.mark.parametrize("text, kind, rest, options", [
    ("timm:hf-hub:org/net", "timm", "hf-hub:org/net", {}),
    ("digits:", "digits", "", {}),
    ("a/b.py:net", "a/b.py", "net", {}),
    ("C:\\a\\b.py:net", "C:\\a\\b.py", "net", {}),
    ("package.module:Net?depth=56&wide=true&name=x&keep=0.5", "package.module", "Net",
     {"depth": 56, "wide": True, "name": "x", "keep": 0.5}),
])  # fmt: skip
def test_three_parts(text, kind, rest, options):
    spec = parse_spec(text, ["timm", "digits"], "")
    assert (spec.kind, spec.rest, spec.options) == (kind, rest, options)


@pytest.mark.parametrize("text", ["resnet18", "", None, 7])
def test_no_colon_shows_an_example(text):
    with pytest.raises(BadInput, match="such as timm:resnet18"):
        parse_spec(text, [], "timm:resnet18")


def test_options_are_checked():
    spec = parse_spec("npz:x?mena=1&std=a&augment=all&classes=0", ["npz"], "")
    with pytest.raises(UnknownName, match="Did you mean 'mean'"):
        known_options(spec, ["mean", "std", "augment", "classes"])
    with pytest.raises(BadInput, match=r"'std'.*expected numbers"):
        numbers(spec, "std", None)
    with pytest.raises(BadInput, match="expected flip or none; got 'all'"):
        choice(spec, "augment", ("flip", "none"), "none")
    with pytest.raises(BadInput, match=">= 1; got 0"):
        whole(spec, "classes", 3)
    with pytest.raises(BadInput, match="name=value"):
        parse_spec("npz:x?mean", ["npz"], "")
