"""`paredown run`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from paredown.spec.run import RunConfig


def run(
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Local folder, hub name, or 'demo' (built in)."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            "-d",
            help="What to measure on, repeatable: benchmarks (gsm8k, arc_easy, mmlu, ...; "
            "lm-eval:NAME; a .jsonl file of questions) and one text (pydoc, self, wikitext2, or "
            "a file or folder).",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Items per benchmark; 0: all (default: 100).")
    ] = None,
    final_limit: Annotated[
        int | None,
        typer.Option(help="Items per benchmark for the base and the front, after the search."),
    ] = None,
    allow_unsandboxed_code: Annotated[
        bool | None,
        typer.Option(
            "--allow-unsandboxed-code", help="Run model-written code where no sandbox works."
        ),
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(help="Strategies to try after the baseline (default: 10).")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="Hours for the whole run; a trial that would run over is stopped."),
    ] = None,
    max_memory_gb: Annotated[
        float | None, typer.Option(help="Limit: peak memory of the serving process.")
    ] = None,
    max_accuracy_loss: Annotated[
        float | None, typer.Option(help="Limit: loss of quality in percent of the baseline's.")
    ] = None,
    min_speedup: Annotated[
        float | None, typer.Option(help="Limit: decode speed relative to the baseline.")
    ] = None,
    target_ratio: Annotated[
        float | None, typer.Option(help="Limit: how many times smaller the files must be.")
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Only these methods, comma-separated (see paredown methods).")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="What proposes strategies: portfolio (default), surrogate, bayesian, "
            "evolutionary, bandit, grid or random."
        ),
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(
            help="Who decides: auto (an LLM advises if a key or an address is configured), llm, "
            "or search (never an LLM)."
        ),
    ] = None,
    llm: Annotated[
        str | None,
        typer.Option(
            help="Model that advises (default: gpt-4o); local: a server here, with the built-in "
            "model. Key: OPENAI_API_KEY."
        ),
    ] = None,
    llm_url: Annotated[
        str | None,
        typer.Option(help="Any OpenAI-compatible address (also: OPENAI_BASE_URL)."),
    ] = None,
    llm_budget: Annotated[
        str | None,
        typer.Option(help="For the whole run: tokens (200000) or money (2usd). Default: 200000."),
    ] = None,
    skills: Annotated[Path | None, typer.Option(help="File with what earlier runs taught.")] = None,
    no_skills: Annotated[
        bool, typer.Option("--no-skills", help="Neither use nor keep skills.")
    ] = False,
    calibration: Annotated[
        str | None,
        typer.Option(help="Calibration text, if not the training part of --data."),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with offline data sets (also: PAREDOWN_DATA).")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    country: Annotated[
        str | None,
        typer.Option(help="Three letters (DEU): grid for the CO2e of the run (default: world)."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same proposals.")] = None,
    eval_tokens: Annotated[
        int | None, typer.Option(help="Tokens of held-out text per measurement (default: 8192).")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML or JSON file with settings; options win over it.")
    ] = None,
    experiment_name: Annotated[
        str | None, typer.Option(help="Name of the experiment's folder.")
    ] = None,
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", help="Folder that holds experiments.")
    ] = Path("data/experiments"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an experiment that exists.")
    ] = False,
    interactive: Annotated[
        bool,
        typer.Option(
            "--interactive",
            help="Live view of the front; commands typed while it runs (type help) steer it.",
        ),
    ] = False,
    show_spec: Annotated[
        bool, typer.Option("--show-spec", help="Show the model spec before starting.")
    ] = False,
) -> None:
    """Search for the compressed versions of a model that are worth having.

    Only the model is required. Everything lands in OUTPUT_DIR/EXPERIMENT_NAME: report.md, plots,
    every measurement, and the artifacts on the Pareto front. A run that was killed continues with
    --resume.

    Settings come from options, then from environment variables (PAREDOWN_RUN_EPISODES=20), then
    from --config.
    """
    from rich.console import Console

    from paredown.cli.settings import read_settings

    options: dict[str, Any] = {
        "model": model,
        "data": data or None,
        "data_dir": None if data_dir is None else data_dir.resolve(),
        "episodes": episodes,
        "budget_h": budget,
        "methods": None
        if methods is None
        else [m.strip() for m in methods.split(",") if m.strip()],
        "policy": policy,
        "coordinator": coordinator,
        "llm": {"model": llm, "url": llm_url, **_llm_budget(llm_budget)},
        "skills": False if no_skills else None,
        "skills_file": None if skills is None else skills.resolve(),
        "device": device,
        "seed": seed,
        "country": country,
        "final_limit": final_limit,
        "calibration": {"source": calibration},
        "evaluate": {
            "tokens": eval_tokens,
            "limit": limit,
            "allow_unsandboxed_code": allow_unsandboxed_code,
        },
        "limits": {
            "max_memory_gb": max_memory_gb,
            "max_accuracy_loss": max_accuracy_loss,
            "min_speedup": min_speedup,
            "target_ratio": target_ratio,
        },
    }
    request = read_settings(options, config)
    console = Console(stderr=False, highlight=False)
    if show_spec:
        _show_spec(request)
    _execute(request, console, experiment_name, output_dir, resume=resume, live=interactive)


def _llm_budget(text: str | None) -> dict[str, float | int]:
    """`200000` tokens, or `2usd`."""
    from paredown.errors import ConfigError

    if text is None:
        return {}
    number = text.lower().removesuffix("usd").strip()
    is_money = number != text.lower().strip()
    try:
        return {"budget_usd": float(number)} if is_money else {"budget_tokens": int(number)}
    except ValueError:
        raise ConfigError(
            f"--llm-budget {text!r}: give tokens as in 200000, or money as in 2usd"
        ) from None


def _execute(
    request: RunConfig,
    console: Console,
    name: str | None,
    output_dir: Path,
    *,
    resume: bool,
    live: bool,
) -> None:
    from paredown.cli.interactive import InteractiveProgress
    from paredown.cli.live import RunProgress
    from paredown.coordinate.run import run_experiment
    from paredown.coordinate.steering import Steering

    steering = Steering()
    shown = (
        InteractiveProgress(console, request.episodes, request.objectives, steering)
        if live
        else RunProgress(console, request.episodes, request.objectives)
    )
    try:
        with shown as progress:
            record = run_experiment(
                request,
                name=name,
                output_dir=output_dir,
                resume=resume,
                listen=progress,
                steering=steering,
            )
            nothing_new = not progress.results
    except KeyboardInterrupt:
        typer.echo("interrupted; what was finished is kept (continue with --resume)", err=True)
        raise typer.Exit(130) from None
    if nothing_new:
        console.print(f"experiment {record.name!r} is finished; nothing was left to do\n")
    from paredown.cli.analyze import analyze

    analyze(record.folder)


def _show_spec(request: RunConfig) -> None:
    from paredown.cli.spec import spec

    spec(model=request.model)
