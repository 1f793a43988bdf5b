"""HumanEval as a benchmark among others: the model writes, our sandbox judges."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paredown.errors import ConfigError
from paredown.evaluate.code import STOPS, Problem, answer, complete, load_problems
from paredown.evaluate.code import score as judge
from paredown.evaluate.items import Item, TaskItems, draw
from paredown.evaluate.sandbox.detect import open_sandbox
from paredown.evaluate.task_data import describe_rows, humaneval_folder
from paredown.spec.benchmarks import HUMANEVAL
from paredown.spec.serial import content_hash

if TYPE_CHECKING:
    from paredown.evaluate.harness import HarnessModel

_SEED = 1234
_MAX_TOKENS = 512
_INSTRUCTION = "Complete the following Python function. Answer with the code alone.\n```python\n"


@dataclass(frozen=True)
class _Request:
    """What the model needs to know of a prompt."""

    args: tuple[str, dict[str, object]]
    task_name: str
    doc_id: int


def run_humaneval(
    model: HarnessModel,
    *,
    limit: int,
    chat_template: bool,
    data_dir: Path | None,
    allow_unsandboxed: bool,
) -> TaskItems:
    """pass@1 of greedy completions, or of a fixed draw of the problems.

    Raises:
        ConfigError: no sandbox works here and `allow_unsandboxed` is false, no local rows, or a
            tokenizer without the chat template that is asked for.
    """
    sandbox = open_sandbox(allow_unsandboxed=allow_unsandboxed)
    if chat_template and not getattr(model.tokenizer, "chat_template", None):
        raise ConfigError("the tokenizer has no chat template; leave --chat-template out")
    problems = load_problems(humaneval_folder(data_dir))
    chosen = draw({HUMANEVAL: len(problems)}, limit, seed=_SEED)[HUMANEVAL]
    asked = [problems[i] for i in chosen]
    model.forget()
    # A chat answer has its code among prose and fences, where these stops would cut it short.
    settings = {"until": [] if chat_template else [*STOPS], "max_gen_toks": _MAX_TOKENS}
    texts = model.generate_until(
        [
            _Request((_prompt(p, model, chat_template), settings), HUMANEVAL, i)
            for i, p in zip(chosen, asked, strict=True)
        ]
    )
    to_program = answer if chat_template else complete
    model.progress(1.0, "running the programs")
    completions = {p.task_id: [text] for p, text in zip(asked, texts, strict=True)}
    judged = judge(asked, completions, sandbox, to_program=to_program)
    rows = describe_rows(HUMANEVAL, data_dir)
    items = tuple(
        Item(
            id=solved.task_id,
            part=HUMANEVAL,
            hash=content_hash([problem.prompt, problem.test]),
            score=float(solved.passed > 0),
            answer=text,
            metrics={"pass@1": float(solved.passed > 0)},
            truncated=(HUMANEVAL, i) in model.truncated,
            next=model.following.get((HUMANEVAL, i)),
            along=model.along.get((HUMANEVAL, i), ()),
        )
        for i, problem, text, solved in zip(chosen, asked, texts, judged.solved, strict=True)
    )
    template = "in the chat template" if chat_template else "as plain text"
    return TaskItems(
        name=HUMANEVAL,
        metric="pass@1",
        higher_is_better=True,
        chance=0.0,
        few_shot=0,
        n_available=len(problems),
        rows=rows,
        how=f"{judged.how}; prompts {template}, greedy, at most {_MAX_TOKENS} tokens; {rows}",
        items=items,
    )


def _prompt(problem: Problem, model: HarnessModel, chat_template: bool) -> str:
    if not chat_template:
        return problem.prompt
    message = f"{_INSTRUCTION}{problem.prompt}\n```"
    return model.apply_chat_template([{"role": "user", "content": message}])
