"""How each tool logs in, as its recipe says, to a server that has users."""

import re

import adbc_driver_flightsql.dbapi as flight_sql
import pyarrow.flight as flight
import pytest
from connect_page import section
from system_processes import ServerProgram

pytestmark = pytest.mark.tool("login")

LOGIN = {"username": "quant", "password": "change-me"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "users.yaml").write_text("auth: {users: {quant: change-me}}\n")
    program = ServerProgram(folder, "--config", str(folder / "users.yaml"))
    yield program
    program.stop()


def test_nobody_gets_in_without(guarded):
    with (
        flight_sql.connect(guarded.address, autocommit=True) as connection,
        connection.cursor() as cursor,
        pytest.raises(flight_sql.ProgrammingError, match="UNAUTHENTICATED"),
    ):
        cursor.execute("SELECT 1")


def test_a_connection_of_the_driver_logs_in(guarded):
    assert f"db_kwargs={LOGIN}".replace("'", '"') in section("DB-API")
    with (
        flight_sql.connect(guarded.address, db_kwargs=LOGIN, autocommit=True) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


@pytest.mark.filterwarnings("ignore:Cannot disable autocommit")  # the driver's, when its first question is refused
def test_a_uri_of_polars_cannot_log_in(guarded):
    pl = pytest.importorskip("polars", reason="polars is not installed")
    uri = f"flightsql://quant:change-me@127.0.0.1:{guarded.port}?transport=tcp"
    with pytest.raises(flight_sql.ProgrammingError, match="UNAUTHENTICATED"):
        pl.read_database_uri("SELECT 1", uri, engine="adbc")


def test_sqlalchemy_adbc_logs_in_by_the_query_part(guarded):
    sa = pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed")
    pytest.importorskip("sqlalchemy_adbc", reason="sqlalchemy-adbc is not installed")
    (login,) = re.findall(r"&username=\S+&password=[\w-]+", section("sqlalchemy-adbc"))
    engine = sa.create_engine(f"adbc+flightsql://127.0.0.1:{guarded.port}?tls=false{login}")
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1
    engine.dispose()


def test_pyarrow_logs_in_with_a_token(guarded):
    (login,) = re.findall(r"flight\.FlightCallOptions\([^`]*\)", section("pyarrow alone"))
    with flight.connect(guarded.address) as client:
        options = eval(login, {"flight": flight, "client": client})
        assert list(client.list_actions(options))
