"""`sartor bench oneshot` on a real, very small network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

PEER = """
def peer(model, example, batches, share):
    def narrow():
        return type(model)(4)

    def broken():
        raise RuntimeError("the other tool fell over")

    assert 0 < share < 1 and len(batches[0]) == 2
    return {"narrow": narrow, "broken": broken}
"""
PAGE = "# Tables\n\n<!-- oneshot -->\nold words\n<!-- /oneshot -->\n\nThe end.\n"


@pytest.fixture
def bench(net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bench file with one network that is trained first, and a peer."""
    monkeypatch.setenv("HERE", str(tmp_path))
    (tmp_path / "peer.py").write_text(PEER)
    (tmp_path / "page.md").write_text(PAGE)
    file = tmp_path / "bench.toml"
    file.write_text(
        """
        shares = [80, 50]
        [[network]]
        name = "Tiny"
        model = "$HERE/net.py:net"
        data = "$HERE/net.py:data"
        weights = "$HERE/made.safetensors"
        train = {epochs = 1, lr = 0.01, distill = 0.0}
        calibration = 16
        recipes = ["l1", "reconstruction"]
        peers = ["$HERE/peer.py:peer"]
        """
    )
    return file


def test_every_recipe_share_and_state(say, bench: Path, tmp_path: Path) -> None:
    (network,) = say("bench", "oneshot", bench, "--json").json["networks"]
    own = [r for r in network["rows"] if not r.get("peer")]
    assert [(r["recipe"], r["asked"]) for r in own] == [
        ("l1", 0.8), ("l1", 0.5), ("reconstruction", 0.8), ("reconstruction", 0.5)
    ]  # fmt: skip
    for r in own:
        assert r["macs"] <= r["asked"] and r["decision_s"] > 0
        assert all(0 <= r[s] <= 100 for s in ("cut", "norm", "repaired"))
    narrow, broken = [next(r for r in network["rows"] if r["recipe"] == n) for n in ("narrow", "broken")]
    assert narrow["macs"] == pytest.approx(0.5, abs=0.01) and narrow["repaired"] is None and narrow["norm"] >= 0
    assert "fell over" in broken["why"] and broken["cut"] is None
    assert (tmp_path / "made.safetensors").is_file()


def test_rows_that_are_kept_are_not_made_again(say, bench: Path, tmp_path: Path) -> None:
    keep, page = tmp_path / "rows.jsonl", tmp_path / "page.md"
    first = say("bench", "oneshot", bench, "--recipes", "l1", "--no-peers", "--keep", keep, "--json").json
    stored = [json.loads(line) for line in keep.read_text().splitlines()]
    stored[0]["cut"] = 12.34  # nothing measures this: it can only come from the file
    keep.write_text("".join(json.dumps(row) + "\n" for row in stored))
    again = say(
        "bench", "oneshot", bench, "--recipes", "l1", "--no-peers", "--keep", keep, "--write", page, "--json"
    ).json
    assert again["networks"][0]["rows"][0]["cut"] == 12.34
    assert again["networks"][0]["rows"][1] == first["networks"][0]["rows"][1]
    text = page.read_text()
    assert "| l1 | 12.3 |" in text.replace("**", "") and "old words" not in text
    assert text.startswith("# Tables") and text.endswith("The end.\n")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("shares", "share"), "share"),
        (("calibration", "calibratoin"), "calibratoin"),
        (('name = "Tiny"', "name = 3"), "name"),
        (("$HERE/net.py:net", "$NOWHERE/net.py:net"), "NOWHERE"),
        (("epochs", "epoch"), "epoch"),
        (("[80, 50]", "[80, 500]"), "500"),
    ],
)
def test_mistakes_in_the_file_are_said(say, bench: Path, change: tuple[str, str], says: str) -> None:
    bench.write_text(bench.read_text().replace(*change))
    said = say("bench", "oneshot", bench)
    assert said.code not in (0, 1) and says in said.err


def test_a_page_without_its_marks_is_left_alone(say, bench: Path, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("a page of something else")
    said = say("bench", "oneshot", bench, "--write", tmp_path / "page.md")
    assert said.code == 2 and (tmp_path / "page.md").read_text() == "a page of something else"
