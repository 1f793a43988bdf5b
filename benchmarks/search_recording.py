"""What a local LLM says when it leads: recorded once, slowly, and replayed for nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paredown.advise.client import Advisor, Endpoint, Message, Reply
from paredown.advise.local import local_server
from paredown.advise.policy import LlmPolicy
from paredown.advise.prompts import Background
from paredown.coordinate.coordinator import LOCAL_S, LOCAL_TOKENS
from paredown.search.policies import registry as policies
from paredown.search.replay import Table, replay
from paredown.spec.model import ModelSpec
from paredown.spec.run import LlmConfig, Objective, RunConfig
from paredown.spec.target import Limits
from paredown.store.events import EventLog

OBJECTIVES: tuple[Objective, ...] = ("quality", "size")


@dataclass
class Recorder:
    """Stands where `Advisor` stands, and keeps what it hears."""

    advisor: Advisor
    texts: list[str] = field(default_factory=list)

    @property
    def config(self) -> LlmConfig:
        return self.advisor.config

    @property
    def endpoint(self) -> Endpoint:
        return self.advisor.endpoint

    def ask(self, messages: Sequence[Message], schema: dict[str, Any]) -> Reply:
        reply = self.advisor.ask(messages, schema)
        self.texts.append(reply.text)
        return reply


def recordings(
    table: Table, spec: ModelSpec, seeds: Iterable[int], *, episodes: int
) -> list[list[str]]:
    """Answers of the built-in model, one list per seed, with so many trials each.

    The seed is that of the portfolio behind it, and what differs in a recording: the server
    samples with its own chance.
    """
    llm = LlmConfig(
        model="local", share=1, timeout_s=LOCAL_S, answer_tokens=LOCAL_TOKENS, budget_tokens=10**9
    )
    config = RunConfig(model=spec.name, objectives=OBJECTIVES, llm=llm)
    background = Background(spec=spec, config=config, device="cpu")
    found = []
    with local_server() as endpoint, tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            with closing(Advisor(endpoint, llm)) as advisor:
                recorder = Recorder(advisor)
                events = EventLog(Path(folder) / f"events-{seed}.jsonl")
                leader = LlmPolicy(recorder, background, events, brief=True)  # type: ignore[arg-type]
                policy = policies.create(
                    "portfolio", seed=seed, objectives=OBJECTIVES, leader=leader
                )
                replay(
                    policy, table, space=table.space, episodes=episodes, seconds=None,
                    limits=Limits(), enough=lambda results: len(results) > episodes,
                )  # fmt: skip
                found.append(recorder.texts)
    return found
