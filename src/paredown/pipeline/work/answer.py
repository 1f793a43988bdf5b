"""Answer: what a model says to a user's messages, in the engine that will serve it."""

from __future__ import annotations

import time

from paredown.deploy.golden import prompt_of
from paredown.pipeline.messages import AnswerDone, Answered, AnswerJob
from paredown.runtimes.packages import open_model
from paredown.runtimes.registry import engine
from paredown.spec.progress import Progress
from paredown.text.windows import load_tokenizer


def answer(job: AnswerJob, progress: Progress) -> AnswerDone:
    """Greedy answers, one message at a time, each timed from its prompt to its end.

    Raises:
        ConfigError: the answers leave no room for a prompt.
        DivergedError: logits that are not finite.
    """
    progress(0.0, "loading")
    tokenizer = load_tokenizer(job.model, trust_remote_code=job.trust_remote_code)
    prompts = [prompt_of(tokenizer, message)[1] for message in job.messages]
    session = open_model(
        engine(job.runtime), job.model, device=job.device, trust_remote_code=job.trust_remote_code
    )
    try:
        # The first text of a process pays for kernels that are made when they are first asked for.
        list(session.generate(prompts[:1], stops=(), max_tokens=1))
        answers = []
        for i, prompt in enumerate(prompts):
            progress(i / len(prompts), f"message {i + 1} of {len(prompts)}")
            start = time.perf_counter()
            ((_, written),) = session.generate([prompt], stops=(), max_tokens=job.max_tokens)
            seconds = time.perf_counter() - start
            tokens = len(tokenizer.encode(written.text, add_special_tokens=False))
            answers.append(Answered(text=written.text, tokens=tokens, seconds=seconds))
    finally:
        session.close()
    return AnswerDone(answers=tuple(answers), is_chat=bool(tokenizer.chat_template))
