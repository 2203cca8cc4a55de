import pyarrow as pa
import pyarrow.flight as fl

from tickflight.wire.enums import DescriptorType
from tickflight.wire.flight import BasicAuth, FlightDescriptor, FlightEndpoint, FlightInfo, FlightTicket, Location


def test_pyarrow_reads_our_flight_info():
    schema = pa.schema([("a", pa.int64())])
    ours = FlightInfo(
        schema=schema.serialize().to_pybytes(),
        flight_descriptor=FlightDescriptor(DescriptorType.CMD, b"c"),
        endpoint=(FlightEndpoint(FlightTicket(b"t"), (Location("grpc://h:1"),), 1_500_000_000_123_456_789, b"m"),),
        total_records=3,
    )
    theirs = fl.FlightInfo.deserialize(ours.serialize())
    assert theirs.schema == schema
    assert theirs.descriptor.command == b"c"
    assert (theirs.total_records, theirs.total_bytes) == (3, -1)
    assert theirs.endpoints[0].ticket.ticket == b"t"
    assert theirs.endpoints[0].expiration_time.value == 1_500_000_000_123_456_789


def test_we_read_the_flight_info_of_pyarrow():
    schema = pa.schema([("a", pa.int64())])
    theirs = fl.FlightInfo(schema, fl.FlightDescriptor.for_path("a", "b"), [fl.FlightEndpoint(b"t", [])], 1, 2)
    ours = FlightInfo.parse(theirs.serialize())
    assert ours.flight_descriptor == FlightDescriptor(DescriptorType.PATH, b"", ("a", "b"))
    assert ours.endpoint == (FlightEndpoint(FlightTicket(b"t")),)
    assert pa.ipc.read_schema(pa.py_buffer(ours.schema)) == schema


def test_basic_auth_is_that_of_pyarrow():
    assert BasicAuth.parse(fl.BasicAuth("u", "p").serialize()) == BasicAuth("u", "p")
