"""Names of lm-eval's tasks, looked up before anything is loaded."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from paredown.errors import DataError
from paredown.evaluate import task_names
from paredown.evaluate.task_data import check_benchmarks, lm_eval_tasks
from paredown.evaluate.task_names import check_task
from paredown.store.atomic import write_json
from tests.samples import EVALUATE


@pytest.fixture
def kept_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list that lm-eval itself would give, made short."""
    monkeypatch.setattr(task_names, "home", lambda: tmp_path)
    version = importlib.metadata.version("lm-eval")
    names = ["piqa", "piqa_ca", "made_up_from_a_list"]
    write_json(tmp_path / "cache" / f"lm-eval-tasks-{version}.json", {"tasks": names})


def folder_of_tasks(folder: Path) -> Path:
    folder.mkdir()
    (folder / "one.yaml").write_text("tag: x\ntask: one # first\n")
    (folder / "two.yaml").write_text('group: "both"\ntask:\n  - one\n  - other\n')
    return folder


def test_names_in_task_files_are_found_without_lm_eval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_names, "_all_tasks", lambda: pytest.fail("not needed"))
    tasks = folder_of_tasks(tmp_path / "tasks")
    check_task("lm-eval:one", tasks)
    check_task("lm-eval:both", tasks)
    check_task("lm-eval:piqa", lm_eval_tasks())


@pytest.mark.usefixtures("kept_list")
def test_other_names_are_asked_of_lm_eval_and_unknown_ones_refused(tmp_path: Path) -> None:
    tasks = folder_of_tasks(tmp_path / "tasks")
    check_task("lm-eval:made_up_from_a_list", tasks)
    with pytest.raises(DataError, match=r"no task 'piqaa'; did you mean 'piqa' or 'piqa_ca'\?"):
        check_task("lm-eval:piqaa", tasks)
    with pytest.raises(DataError, match="lm-eval ls tasks"):
        check_task("lm-eval:zzzz", tasks)


@pytest.mark.usefixtures("kept_list")
def test_a_request_with_an_unknown_task_is_refused_up_front() -> None:
    config = EVALUATE.model_copy(update={"benchmarks": ("lm-eval:piqaa",)})
    with pytest.raises(DataError, match="piqaa"):
        check_benchmarks(config, None)
