"""What commands say at their end: a verdict, and the command to type next."""

from __future__ import annotations

from pathlib import Path

from console import Run

QUICK = ("--steps", 2, "--evaluate-every", 1, "--cells", 2, "--workers", 0)


def test_an_evaluation_says_what_fine_tuning_changed(run: Run, scored: Path) -> None:
    tuned = next(path.name for path in (scored / "runs").iterdir() if "-finetune-" in path.name)
    seeds = ("--prompt-seeds", 2, "--prompt", "box", "--prompt", "point", "--prompt", "mask")
    done = run("evaluate", "-s", scored, "--run", tuned, *seeds).stdout
    for kind in ("box", "point", "mask"):
        assert f"with {kind}: IoU 0." in done
    assert " -> 0." in done and done.splitlines()[-1] == f"Next: hela-store report -s {scored}"
    assert max(map(len, done.split("Fine-tuning")[0].splitlines())) <= 80 + len(tuned)
    zero = run("evaluate", "-s", scored, "--zero-shot", *seeds).stdout
    assert zero.splitlines()[-1] == f"Next: hela-store finetune -s {scored}" and "Fine-tuning" not in zero


def test_one_validation_frame_is_said_to_be_too_few(run: Run, embedded: Path, tmp_path: Path) -> None:
    blocks = ("--train-frames", "0-3", "--val-frames", "5-5", "--test-frames", "7-7")
    found = run("new", "one", "--dataset", embedded / "data", "--tile", "none", *blocks).stdout
    assert "one validation frame is too few" in found and "Next: hela-store embed -s one" in found
    assert "nano is poor" not in found


def test_a_fine_tuning_that_changed_nothing_says_what_to_try(run: Run, scored: Path) -> None:
    done = run("finetune", "-s", scored, "--lr", "1e-12", *QUICK).stdout
    assert "Fine-tuning changed nothing; try a higher --lr or more --steps." in done or "too few to say" in done
    assert done.splitlines()[-1].startswith("Next: hela-store ") and f"-s {scored}" in done.splitlines()[-1]
