"""SQLAlchemy 2 by sqlalchemy-adbc."""

import pytest
from connect_page import run_here

sa = pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed")
pytest.importorskip("sqlalchemy_adbc", reason="sqlalchemy-adbc is not installed")
pytestmark = [
    pytest.mark.tool("sqlalchemy-adbc"),
    # SQLAlchemy leaves the cursor of a CREATE or DROP to the garbage collector; ADBC tells so under pytest
    pytest.mark.filterwarnings("ignore:A adbc_driver_manager.dbapi.Cursor was not explicitly close:ResourceWarning"),
]


def test_the_recipe_reads_and_writes(server, counts):
    names = run_here("sqlalchemy-adbc", server.port)
    assert names["counts"] == counts
    assert names["kept"] == ["gap at 22:31", "fine"]


@pytest.fixture
def engine(server):
    engine = sa.create_engine(f"adbc+flightsql://127.0.0.1:{server.port}?tls=false&username=any&password=any")
    yield engine
    engine.dispose()


def test_an_inspector_finds_schemas_tables_and_columns(engine):
    inspector = sa.inspect(engine)
    assert {"market", "system"} <= set(inspector.get_schema_names())
    assert {"trades", "l2_book"} <= set(inspector.get_table_names(schema="market"))
    columns = {column["name"]: type(column["type"]) for column in inspector.get_columns("trades", schema="market")}
    assert columns["price"] is sa.Float or issubclass(columns["price"], sa.Float)
    assert inspector.get_columns("l2_book", schema="market")


def test_pandas_binds_parameters_through_an_engine(engine, counts):
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    query = sa.text("SELECT * FROM market.trades WHERE symbol = :symbol")
    assert len(pd.read_sql(query, engine, params={"symbol": "BTC-USDT"})) == counts["BTC-USDT"]


def test_a_transaction_that_is_rolled_back_leaves_nothing(engine):
    notes = sa.Table("alchemy_undone", sa.MetaData(), sa.Column("id", sa.Integer), schema="workspace")
    with engine.begin() as connection:
        notes.create(connection)
    with engine.connect() as connection:
        connection.execute(notes.insert(), [{"id": 1}])
        connection.rollback()
    with engine.begin() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(notes)).scalar_one() == 0
        notes.drop(connection)


def test_a_table_without_a_schema_is_made_in_the_workspace(engine):
    plain = sa.Table("alchemy_plain", sa.MetaData(), sa.Column("id", sa.Integer))
    with engine.begin() as connection:
        plain.create(connection)
    assert "alchemy_plain" in sa.inspect(engine).get_table_names(schema="workspace")
    with engine.begin() as connection:
        plain.drop(connection)
