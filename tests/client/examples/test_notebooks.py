"""Every example notebook runs to its end on a server with ten minutes of data, without a warning or a word of error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from seeded_market import GoingOn, seed_market
from system_processes import ServerProgram

EXAMPLES = Path(__file__).parents[3] / "client" / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
SIZE_MAX = 20_000
# how nbclient and its kernel talk is not the notebook's doing
JUPYTERS_OWN = "Kernel is running over TCP without encryption"


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with a market that goes on."""
    server = ServerProgram(tmp_path_factory.mktemp("market"))
    going_on = GoingOn(server.address, seed_market(server.address))
    yield server.address
    going_on.stop()
    server.stop()


@pytest.fixture(scope="module")
def _fonts() -> None:
    """Let matplotlib find its fonts: the first time takes long, and says so on standard error."""
    import matplotlib.font_manager  # noqa: F401


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) == 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_small_and_kept_without_outputs(path: Path) -> None:
    assert path.stat().st_size < SIZE_MAX
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
            compile(cell.source, path.name, "exec", flags=0x2000)  # PyCF_ALLOW_TOP_LEVEL_AWAIT
    assert path.read_text() == json.dumps(json.loads(path.read_text()), indent=1, ensure_ascii=False) + "\n"


@pytest.mark.slow
@pytest.mark.usefixtures("_fonts")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_to_its_end_without_a_warning(
    path: Path, market: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("TICKFLIGHT_ADDRESS", market)
    monkeypatch.setenv("PYTHONWARNINGS", "default")  # each is shown, on standard error
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"] == []
    assert {o.output_type for o in outputs} <= {"stream", "display_data", "execute_result"}
    shown = " ".join(str(o.get("text", "")) + str(o.get("data", {}).get("text/plain", "")) for o in outputs)
    assert "no trade came" not in shown
    complaints = [line for line in capfd.readouterr().err.splitlines() if JUPYTERS_OWN not in line]
    assert complaints == [], "of the kernel's process"


CELLS = (
    "import tickflight, tickflight.progress as p; p.SHOWN_AFTER_S = 0; client = tickflight.connect({address!r})",
    'result = client.sql("FROM range(3000000)")\nresult',
    "result.arrow().num_rows",
    "await (await tickflight.aio.connect({address!r})).sql(\"SELECT '<b>' AS x\")",
)


@pytest.mark.slow
def test_cell_shows_rows_and_how_far_a_pull_is(market: str) -> None:
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell.format(address=market)) for cell in CELLS]
    )
    NotebookClient(notebook, timeout=60).execute()
    outputs = [cell.outputs for cell in notebook.cells]
    assert outputs[0] == []
    assert "<table>" in outputs[1][0].data["text/html"]
    assert outputs[1][0].data["text/plain"].endswith("more follow when it is read")
    progress, rows = outputs[2]
    assert progress.data["text/plain"].startswith("3,000,000 rows, 24.0 MB")
    assert rows.data["text/plain"] == "3000000"
    assert "&lt;b&gt;" in outputs[3][0].data["text/html"]
