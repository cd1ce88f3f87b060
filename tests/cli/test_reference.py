"""cli/README.md is what the commands say of themselves, and completion completes."""

from pathlib import Path

from console import Run
from hela_store_cli.reference import reference

PAGE = Path(__file__).parents[2] / "cli/README.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == reference(), "python -m hela_store_cli.reference > cli/README.md"


def test_completion_knows_commands_and_options(run: Run) -> None:
    assert "complete" in run(_HELA_STORE_COMPLETE="bash_source").stdout
    words = {"_HELA_STORE_COMPLETE": "bash_complete", "COMP_WORDS": "hela-store fine", "COMP_CWORD": "1"}
    assert run(**words).stdout.strip() == "plain,finetune"
    words |= {"COMP_WORDS": "hela-store finetune --stor", "COMP_CWORD": "2"}
    assert run(**words).stdout.strip() == "plain,--store"
