"""Facts of a server's answers: real ones, and those of the model that the package holds.

A healthy `/health` does not mean that a model is loaded, and status 200 does not mean that there is
a text in the answer; so each of these asks for tokens and looks at them.
"""

from __future__ import annotations

from paredown.analysis.statistics import mean_stderr
from paredown.deploy.facts import Fact, Look, Subject, failed, not_applicable, passed, within
from paredown.deploy.proof import Golden, Proof, divergence
from paredown.deploy.questions import TOP, Questioner, models
from paredown.spec.redact import shown

QUESTIONS = ("What is the capital of France?", "Name three colours.", "Say hello.")
"""Asked where no proof names golden prompts."""
_LONGEST_ANSWER = 128
_STREAMED = 8
_BROKEN = "\ufffd"
_REPEATS = 1 / 3
"""A text of which so few parts are distinct says the same again and again."""


def health(subject: Subject) -> Fact:
    """`/health`, which says that the process listens and no more."""
    reply = subject.client.get("/health")
    seen = f"/health: status {reply.status} in {1e3 * reply.seconds:.0f} ms"
    return (passed if reply.is_ok else failed)("health", seen)


def model_listed(subject: Subject) -> Fact:
    """`/v1/models`, which also says whom the other checks ask."""
    found = models(subject.client)
    names = [str(model["id"]) for model in found]
    said = ", ".join(shown(name, 60) for name in names[:5]) or "none"
    if subject.name is not None and subject.name not in names:
        return failed("model listed", f"listed: {said}; not {shown(subject.name, 60)}")
    if not names:
        return failed("model listed", "the list is empty")
    subject.questioner = Questioner(subject.client, subject.name or names[0])
    if subject.context is None:
        told = found[0].get("max_model_len") or (found[0].get("meta") or {}).get("n_ctx")
        subject.context = told if isinstance(told, int) else None
    wanted = None if subject.proof is None else subject.proof.vocabulary
    size = (found[names.index(subject.name or names[0])].get("meta") or {}).get("n_vocab")
    if wanted is None or not isinstance(size, int):
        return passed("model listed", f"listed: {said}")
    if size != wanted:
        return failed("model listed", f"{said} has {size} tokens, the artifact {wanted}")
    return passed("model listed", f"listed: {said}, with the artifact's {wanted} tokens")


def generation(subject: Subject) -> Fact:
    """A real answer: not blank, not the same again and again, and it ends."""
    name, longest = "generation", _LONGEST_ANSWER
    golden = () if subject.proof is None else subject.proof.golden
    if subject.proof is not None:
        longest = max(longest, subject.proof.answer_tokens)
    ended, seen = 0, ""
    for question in [one.text for one in golden] or QUESTIONS:
        if golden:
            answer = subject.ask.complete(question, max_tokens=longest)
        else:
            answer = subject.ask.chat(question, max_tokens=longest)
        said = f"to {shown(question[-40:], 40)!r} it says {shown(answer.text, 60)!r}"
        if not answer.text.strip():
            return failed(name, f"a blank answer: {said}")
        if repeats(answer.text) and not _known_to_repeat(golden, question):
            return failed(name, f"it repeats itself: {said}")
        ended += answer.finish == "stop"
        seen = seen or said
        if ended:
            break
    if not ended and not (golden and all(one.finish != "stop" for one in golden)):
        asked = len(golden) or len(QUESTIONS)
        return failed(name, f"none of {asked} answers ended within {longest} tokens; {seen}")
    how = "and it ends" if ended else "it does not end, no more than when the package was made"
    return passed(name, f"{seen}; {how}")


def _known_to_repeat(golden: tuple[Golden, ...], question: str) -> bool:
    """Whether the model did so when its package was made: then it is the model, not the server."""
    return any(one.text == question and repeats(one.answer) for one in golden)


def repeats(text: str) -> bool:
    """Whether a text says the same again and again: few of its runs of three parts are distinct.

    Parts are words; or characters, where there are few words (`!!!!!!!!`, or a script without
    blanks). What is short enough says nothing.
    """
    parts: list[str] = text.split()
    if len(parts) < 12:
        parts = list("".join(parts))
        if len(parts) < 24 or len(text.split()) > 3:
            return False
    runs = list(zip(parts, parts[1:], parts[2:], strict=False))
    return len(set(runs)) < _REPEATS * len(runs)


def streaming(subject: Subject) -> Fact:
    """Token by token, ended as it should be, and the same text as in one piece."""
    name, prompt = "streaming", _prompt(subject)
    streamed = subject.ask.stream(prompt, max_tokens=_STREAMED)
    whole = subject.ask.complete(prompt, max_tokens=_STREAMED)
    pieces = len(streamed.times)
    if not pieces:
        return failed(name, "a stream without any text")
    # The limit may cut a character in two: one way it is left out, the other it shows as broken.
    if streamed.text.rstrip(_BROKEN) != whole.text.rstrip(_BROKEN):
        seen = f"{shown(streamed.text, 40)!r} streamed, {shown(whole.text, 40)!r} in one piece"
        return failed(name, f"two answers to one prompt: {seen}")
    seen = f"{pieces} pieces, the first after {1e3 * streamed.times[0]:.0f} ms"
    if pieces == 1 and (whole.tokens or 0) > 1:
        return failed(name, f"all in one piece: {seen}")
    return passed(name, seen, value=float(pieces), unit="pieces")


def token_ids(subject: Subject) -> Fact:
    """The tokens of varied texts, and the prompts that the chat endpoint makes of messages."""
    name, proof = "token ids", subject.proof
    if proof is None:
        return not_applicable(name, "no proof.json to compare with; give --against proof.json")
    differing = []
    for known in proof.tokens:
        found = subject.ask.token_ids(known.text)
        if found is None:
            return _counted(name, subject, proof)
        if found != list(known.ids):
            differing.append(known.text)
    n = len(proof.tokens)
    if differing:
        seen = (
            f"{len(differing)} of {n} texts have other tokens, such as {shown(differing[0], 40)!r}"
        )
        return failed(name, seen, value=float(len(differing)), unit="texts", at_most=0.0)
    counted = _counted(name, subject, proof)
    seen = f"equal on {n} of {n} texts; {counted.seen}"
    return counted.model_copy(update={"seen": seen})


def _counted(name: str, subject: Subject, proof: Proof) -> Fact:
    """Whether the chat endpoint makes prompts of the same length of the same messages."""
    chats = [one for one in proof.golden if one.is_chat]
    if not chats:
        return passed(name, "the model has no chat template")
    for one in chats:
        answer = subject.ask.chat(one.message, max_tokens=1)
        if answer.prompt_tokens is None:
            return not_applicable(name, "the server counts no tokens")
        if answer.prompt_tokens != len(one.ids):
            seen = f"{answer.prompt_tokens} tokens, not {len(one.ids)}: {shown(one.message, 40)!r}"
            return failed(name, f"the chat endpoint makes another prompt: {seen}")
    return passed(name, f"chat prompts have the same length in {len(chats)} of {len(chats)}")


def agreement(subject: Subject) -> Fact:
    """KL of the served model from the artifact, of the token after each golden prompt."""
    name, proof = "agreement", subject.proof
    if proof is None:
        return not_applicable(name, "no proof.json to compare with; give --against proof.json")
    known = []
    for one in proof.golden:
        answer = subject.ask.complete(one.ids, max_tokens=1, top=TOP)
        if answer.top:  # none of a token that is part of a character
            known.append(divergence(one, dict(answer.top)))
    if not known:
        return not_applicable(name, "the server gives no log-probabilities")
    kl = mean_stderr(known)
    spread = "" if kl.stderr is None else f" ± {1.96 * kl.stderr:.2g}"
    of = f"{kl.n} of {len(proof.golden)} prompts"
    seen = f"KL {kl.value:.2g}{spread} nats over {of}, at most {proof.kl_bound:.2g}"
    return within(name, seen, kl.value, at_most=proof.kl_bound, unit="nats/token")


def golden_answers(subject: Subject) -> Fact:
    """How many golden prompts are answered word for word as when the package was made."""
    name, proof = "drift", subject.proof
    if proof is None:
        return not_applicable(name, "no baseline; give the package's proof.json with --against")
    told = [one for one in proof.golden if one.finish is not None]
    if not told:
        return failed(name, "proof.json holds no served answers, so no drift can be seen later")
    same = 0
    for one in told:
        answer = subject.ask.complete(one.ids, max_tokens=proof.answer_tokens)
        same += answer.text == one.answer
    seen = f"{same} of {len(told)} golden answers are word for word those of {proof.measured_at}"
    # Rounding on another processor turns a tie now and then; that half of them turn is no rounding.
    make = passed if 2 * same >= len(told) else failed
    return make(name, seen, value=float(same), unit="answers")


def _prompt(subject: Subject) -> str:
    if subject.proof is not None:
        return subject.proof.golden[0].text
    return f"{QUESTIONS[0]}\n"


LOOKS: tuple[tuple[str, Look], ...] = (
    ("health", health),
    ("model listed", model_listed),
    ("generation", generation),
    ("streaming", streaming),
    ("token ids", token_ids),
    ("agreement", agreement),
    ("drift", golden_answers),
)
"""In this order: what comes later asks the model that was listed."""
