"""Readiness: a server that behaves passes, and each way of misbehaving fails its own fact."""

from __future__ import annotations

import math

import pytest

from paredown.deploy.answers import repeats
from paredown.deploy.check import Patience, check_server
from paredown.deploy.client import Client
from paredown.deploy.facts import Fact
from paredown.deploy.proof import divergence
from paredown.errors import ConfigError, ServerError
from tests.deploy.fake import running
from tests.deploy.proofs import golden, proof

QUICK = Patience(request_s=1.0, whole_s=60.0)


def check(behaviour: str, **options: object) -> dict[str, Fact]:
    with running(behaviour) as url:
        facts = check_server(url, **{"proof": proof(), "patience": QUICK, **options})  # type: ignore[arg-type]
    return {fact.name: fact for fact in facts}


def failures(facts: dict[str, Fact]) -> set[str]:
    return {name for name, fact in facts.items() if fact.status == "failed"}


def test_a_server_that_behaves_passes() -> None:
    facts = check("good")
    assert not failures(facts)
    passed = {name for name, fact in facts.items() if fact.status == "passed"}
    assert passed == {
        "health", "model listed", "generation", "streaming", "token ids", "agreement", "drift",
        "full context", "overload", "bad requests", "metrics",
    }  # fmt: skip
    assert facts["agreement"].value == pytest.approx(0.0, abs=1e-9)
    assert facts["overload"].seen.startswith("16 at once: 16 answered")  # 4 for each slot, and 8
    assert facts["memory"].status == "not applicable"


@pytest.mark.parametrize(
    ("behaviour", "fact", "words"),
    [
        ("unhealthy", "health", "status 500"),
        ("no model", "model listed", "empty"),
        ("blanks", "generation", "blank"),
        ("repeats", "generation", "repeats itself"),
        ("never ends", "generation", "ended within"),
        ("html", "generation", "no JSON: <html>"),
        ("never says done", "streaming", r"without \[DONE\]"),
        ("streams in one piece", "streaming", "one piece"),
        ("other tokens", "token ids", "2 of 2 texts"),
        ("wrong model", "agreement", "KL"),
        ("cuts prompts", "full context", "without a word"),
        ("500 when crowded", "overload", "500"),
        ("takes anything", "bad requests", "status 200"),
        ("no metrics", "metrics", "404"),
    ],
)
def test_what_is_wrong_is_seen(behaviour: str, fact: str, words: str) -> None:
    found = check(behaviour)[fact]
    assert found.status == "failed"
    import re

    assert re.search(words, found.seen), found.seen


@pytest.mark.parametrize("behaviour", ["hangs", "drips"])
def test_a_server_without_end_is_waited_for_with_an_end(behaviour: str) -> None:
    facts = check(behaviour, patience=Patience(request_s=0.3, whole_s=2.0))
    assert "within 0.3 s" in facts["generation"].seen
    assert facts["generation"].seconds < 20  # a third of what the drip goes on for
    assert {"generation", "streaming", "agreement", "overload"} <= failures(facts)


def test_when_the_time_is_up_nothing_more_is_asked() -> None:
    facts = check("good", patience=Patience(request_s=1.0, whole_s=-1.0))
    assert all("no time" in fact.seen for fact in facts.values())


def test_a_wrong_name_and_a_server_that_is_not_there() -> None:
    assert "not other" in check("good", name="other")["model listed"].seen


def test_a_model_with_another_vocabulary_is_seen() -> None:
    assert "128 tokens" in check("good", proof=proof(vocabulary=128))["model listed"].seen
    fact = check("good", proof=proof(vocabulary=130))["model listed"]
    assert (fact.status, fact.seen) == ("failed", "fake has 128 tokens, the artifact 130")
    with running("good") as url:
        pass
    facts = check_server(url, patience=QUICK)
    assert all(fact.status != "passed" for fact in facts)
    assert "refused" in facts[0].seen


def test_without_a_proof_nothing_is_compared() -> None:
    facts = check("good", proof=None)
    assert not failures(facts)
    assert all(facts[n].status == "not applicable" for n in ("token ids", "agreement", "drift"))


def test_a_model_that_repeated_itself_when_it_was_proved_is_not_blamed() -> None:
    text = "and so it is, " * 30
    known = golden("Hello").model_copy(update={"answer": text, "finish": "length"})
    facts = check("repeats", proof=proof(golden=[known]))
    assert facts["generation"].status == "passed"


def test_a_key_is_asked() -> None:
    with running("good", key="secret-of-mine") as url:
        facts = {f.name: f for f in check_server(url, key="secret-of-mine", patience=QUICK)}
        wrong = {f.name: f for f in check_server(url, key="another", patience=QUICK)}
    assert facts["key asked"].status == "passed"
    assert wrong["generation"].status == "failed"
    with running("needs no key", key="secret-of-mine") as url:
        facts = {f.name: f for f in check_server(url, key="secret-of-mine", patience=QUICK)}
    assert facts["key asked"].status == "failed"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", False),
        ("Paris is the capital of France, and it lies on the river Seine in the north.", False),
        ("!" * 30, True),
        ("!!!", False),
        ("the same the same the same the same the same the same the same", True),
        ("one two three four five six seven eight nine ten eleven twelve", False),
    ],
)
def test_repeats(text: str, expected: bool) -> None:
    assert repeats(text) is expected


def test_divergence_by_id_and_by_text() -> None:
    known = golden("a")
    ids = {7: -0.2, 8: -2.0, 9: -4.0}
    assert divergence(known, ids) == pytest.approx(0.0, abs=1e-12)
    assert divergence(known, {"g": -0.2, "h": -2.0, "i": -4.0}) == pytest.approx(0.0, abs=1e-12)
    # By hand: two outcomes and the rest change places.
    other = {7: -2.0, 8: -0.2, 9: -4.0}
    expected = math.exp(-0.2) * 1.8 - math.exp(-2.0) * 1.8
    assert divergence(known, other) == pytest.approx(expected, rel=1e-9)
    assert divergence(known, {"x": -0.1, "y": -3.0}) > 1.0


@pytest.mark.parametrize(
    "url", ["ftp://h", "http://", "http://u:p@h/v1", "http://h:99999", "http://h?k=1"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        Client(url)


def test_a_redirect_is_not_followed() -> None:
    """Whatever a server says, nothing goes to a host that the user did not name."""
    from tests.deploy.fake import Handler, make

    with running("good") as elsewhere:

        class Elsewhere(Handler):
            def do_GET(self) -> None:
                self.send_response(302)
                self.send_header("Location", f"{elsewhere}/v1/models")
                self.send_header("Content-Length", "0")
                self.end_headers()

        server = make(0, "good", None)
        server.RequestHandlerClass = Elsewhere
        import threading

        thread = threading.Thread(target=server.handle_request)
        thread.start()
        client = Client(f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(ServerError, match="302"):
            client.get("/v1/models").document()
        thread.join()
        server.server_close()
