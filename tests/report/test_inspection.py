"""The tree of `inspect`: rows, terminal, Graphviz text, page."""

import io
import re

from rich.console import Console
from tests.zoo_graphs import understood

from sartor.cli.describe_graph import describe
from sartor.report.inspection import alike, dot, folded, group_rows, group_tree, page, tree_of
from sartor.report.rows import FrozenRow


def found(name):
    return {"model": name, **describe(understood(name)[2])}


def printed(tree):
    console = Console(width=200, file=io.StringIO())
    console.print(tree)
    return console.file.getvalue()


def test_groups_hang_under_the_modules_they_are_named_after():
    root = tree_of(found("transformer-encoder"))
    assert [g.label for g in root.groups] == ["words:1"]
    assert [g.label for g in root.inside["layer"].groups] == ["linear1"]
    assert [g.kind for g in root.inside["layer"].inside["self_attn"].groups] == ["heads", "head dimension"]
    (row,) = (r for r in group_rows(found("transformer-encoder")) if r.kind == "hidden units")
    assert row.line.startswith("24 hidden units, ") and "written by layer.linear1; read by layer.linear2" in row.places


def test_the_terminal_shows_every_group_and_folds_equal_blocks():
    text = printed(group_tree(found("convnext")))
    assert "0 to 1, each" in text and "24 hidden units" in text and "8 channels" in text
    nodes = list(tree_of(found("convnext")).inside["blocks"].inside.values())
    assert [n for n, _ in folded(nodes)] == ["0 to 1, each"]
    nodes[1].groups.clear()
    assert [n for n, _ in folded(nodes)] == ["0", "1"]


def test_reasons_that_differ_in_a_number_are_one():
    rows = [FrozenRow(f"unbind in blocks.{i}.attn takes each position apart", (f"q{i}",)) for i in range(3)]
    other = FrozenRow("sizes 3 and 4 meet in add in head", ("a", "b"))
    first, second = alike([other, *rows])
    assert first.reason == "unbind in blocks.*.attn takes each position apart" and first.axes == ("q0", "q1", "q2")
    assert second == other


def test_graphviz_text_declares_every_end_of_every_edge():
    for name in ("transformer-encoder", "cifar-resnet-pad", "mlp"):
        text = dot(found(name))
        assert text.count("{") == text.count("}") and text.count('"') % 2 == 0
        declared = set(re.findall(r'^ *("[gm]:[^"]*") \[(?:shape|label)', text, re.M))
        edges = re.findall(r'("[gm]:[^"]*") -> ("[gm]:[^"]*")', text)
        assert edges and {end for edge in edges for end in edge} <= declared
    assert "equally many" in dot(found("cifar-resnet-pad"))


def test_the_page_is_self_contained_and_escapes():
    answer = found("transformer-encoder")
    answer["model"] = "<script>"
    text = page(answer, {"layer.linear1": ["a & b"]}, "head", "coverage")
    assert "<script" not in text and "a &amp; b" in text and "http" not in text.replace("http-equiv", "")
    assert all(g["name"] in text for g in answer["groups"]) and "an output of the model" in text
