# mypy: ignore-errors
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Query(_message.Message):
    __slots__ = ("sql", "params", "id")
    SQL_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    sql: str
    params: bytes
    id: bytes
    def __init__(self, sql: _Optional[str] = ..., params: _Optional[bytes] = ..., id: _Optional[bytes] = ...) -> None: ...

class AppendStream(_message.Message):
    __slots__ = ("table", "schema", "producer")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    table: str
    schema: str
    producer: bytes
    def __init__(self, table: _Optional[str] = ..., schema: _Optional[str] = ..., producer: _Optional[bytes] = ...) -> None: ...

class AppendBatch(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    def __init__(self, sequence: _Optional[int] = ...) -> None: ...

class AppendAck(_message.Message):
    __slots__ = ("sequence", "first_seq", "rows", "rejected", "duplicate", "repeated")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQ_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    REPEATED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    first_seq: int
    rows: int
    rejected: int
    duplicate: bool
    repeated: int
    def __init__(self, sequence: _Optional[int] = ..., first_seq: _Optional[int] = ..., rows: _Optional[int] = ..., rejected: _Optional[int] = ..., duplicate: bool = ..., repeated: _Optional[int] = ...) -> None: ...

class AppendError(_message.Message):
    __slots__ = ("sequence", "code", "message", "hint")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    code: str
    message: str
    hint: str
    def __init__(self, sequence: _Optional[int] = ..., code: _Optional[str] = ..., message: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class AppendResult(_message.Message):
    __slots__ = ("ack", "error")
    ACK_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ack: AppendAck
    error: AppendError
    def __init__(self, ack: _Optional[_Union[AppendAck, _Mapping]] = ..., error: _Optional[_Union[AppendError, _Mapping]] = ...) -> None: ...

class FeedReport(_message.Message):
    __slots__ = ("feed", "json")
    FEED_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    feed: str
    json: bytes
    def __init__(self, feed: _Optional[str] = ..., json: _Optional[bytes] = ...) -> None: ...

class Flush(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FlushResult(_message.Message):
    __slots__ = ("flushed_seq",)
    class FlushedSeqEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    FLUSHED_SEQ_FIELD_NUMBER: _ClassVar[int]
    flushed_seq: _containers.ScalarMap[str, int]
    def __init__(self, flushed_seq: _Optional[_Mapping[str, int]] = ...) -> None: ...

class Pin(_message.Message):
    __slots__ = ("id", "cuts", "created_us", "expires_us")
    class CutsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    CUTS_FIELD_NUMBER: _ClassVar[int]
    CREATED_US_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_US_FIELD_NUMBER: _ClassVar[int]
    id: str
    cuts: _containers.ScalarMap[str, int]
    created_us: int
    expires_us: int
    def __init__(self, id: _Optional[str] = ..., cuts: _Optional[_Mapping[str, int]] = ..., created_us: _Optional[int] = ..., expires_us: _Optional[int] = ...) -> None: ...

class CreatePin(_message.Message):
    __slots__ = ("seconds",)
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    seconds: int
    def __init__(self, seconds: _Optional[int] = ...) -> None: ...

class RenewPin(_message.Message):
    __slots__ = ("id", "seconds")
    ID_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    id: str
    seconds: int
    def __init__(self, id: _Optional[str] = ..., seconds: _Optional[int] = ...) -> None: ...

class ReleasePin(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class CancelStatement(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class CancelStatementResult(_message.Message):
    __slots__ = ("cancelled",)
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    cancelled: bool
    def __init__(self, cancelled: bool = ...) -> None: ...

class Health(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HealthComponent(_message.Message):
    __slots__ = ("component", "state", "since_us", "detail", "hint")
    COMPONENT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SINCE_US_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    component: str
    state: str
    since_us: int
    detail: str
    hint: str
    def __init__(self, component: _Optional[str] = ..., state: _Optional[str] = ..., since_us: _Optional[int] = ..., detail: _Optional[str] = ..., hint: _Optional[str] = ...) -> None: ...

class HealthResult(_message.Message):
    __slots__ = ("state", "components")
    STATE_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    state: str
    components: _containers.RepeatedCompositeFieldContainer[HealthComponent]
    def __init__(self, state: _Optional[str] = ..., components: _Optional[_Iterable[_Union[HealthComponent, _Mapping]]] = ...) -> None: ...

class Selection(_message.Message):
    __slots__ = ("table", "exchanges", "symbols", "columns", "where")
    TABLE_FIELD_NUMBER: _ClassVar[int]
    EXCHANGES_FIELD_NUMBER: _ClassVar[int]
    SYMBOLS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    WHERE_FIELD_NUMBER: _ClassVar[int]
    table: str
    exchanges: _containers.RepeatedScalarFieldContainer[str]
    symbols: _containers.RepeatedScalarFieldContainer[str]
    columns: _containers.RepeatedScalarFieldContainer[str]
    where: str
    def __init__(self, table: _Optional[str] = ..., exchanges: _Optional[_Iterable[str]] = ..., symbols: _Optional[_Iterable[str]] = ..., columns: _Optional[_Iterable[str]] = ..., where: _Optional[str] = ...) -> None: ...

class Tail(_message.Message):
    __slots__ = ("selection", "after_seq", "resume", "since_us", "on_lag", "lag_rows_max")
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQ_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    SINCE_US_FIELD_NUMBER: _ClassVar[int]
    ON_LAG_FIELD_NUMBER: _ClassVar[int]
    LAG_ROWS_MAX_FIELD_NUMBER: _ClassVar[int]
    selection: Selection
    after_seq: int
    resume: bytes
    since_us: int
    on_lag: str
    lag_rows_max: int
    def __init__(self, selection: _Optional[_Union[Selection, _Mapping]] = ..., after_seq: _Optional[int] = ..., resume: _Optional[bytes] = ..., since_us: _Optional[int] = ..., on_lag: _Optional[str] = ..., lag_rows_max: _Optional[int] = ...) -> None: ...

class TailMark(_message.Message):
    __slots__ = ("resume", "seq", "newest_seq", "durable_us", "skipped_first", "skipped_last", "skipped_why", "ended")
    RESUME_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    NEWEST_SEQ_FIELD_NUMBER: _ClassVar[int]
    DURABLE_US_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIRST_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_LAST_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_WHY_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    resume: bytes
    seq: int
    newest_seq: int
    durable_us: int
    skipped_first: int
    skipped_last: int
    skipped_why: str
    ended: str
    def __init__(self, resume: _Optional[bytes] = ..., seq: _Optional[int] = ..., newest_seq: _Optional[int] = ..., durable_us: _Optional[int] = ..., skipped_first: _Optional[int] = ..., skipped_last: _Optional[int] = ..., skipped_why: _Optional[str] = ..., ended: _Optional[str] = ...) -> None: ...

class ResumeToken(_message.Message):
    __slots__ = ("writer", "table", "seq", "since_us")
    WRITER_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    SINCE_US_FIELD_NUMBER: _ClassVar[int]
    writer: bytes
    table: str
    seq: int
    since_us: int
    def __init__(self, writer: _Optional[bytes] = ..., table: _Optional[str] = ..., seq: _Optional[int] = ..., since_us: _Optional[int] = ...) -> None: ...

class Replay(_message.Message):
    __slots__ = ("selection", "start_us", "end_us")
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    START_US_FIELD_NUMBER: _ClassVar[int]
    END_US_FIELD_NUMBER: _ClassVar[int]
    selection: Selection
    start_us: int
    end_us: int
    def __init__(self, selection: _Optional[_Union[Selection, _Mapping]] = ..., start_us: _Optional[int] = ..., end_us: _Optional[int] = ...) -> None: ...

class Live(_message.Message):
    __slots__ = ("sql", "params", "every_ms")
    SQL_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    EVERY_MS_FIELD_NUMBER: _ClassVar[int]
    sql: str
    params: bytes
    every_ms: int
    def __init__(self, sql: _Optional[str] = ..., params: _Optional[bytes] = ..., every_ms: _Optional[int] = ...) -> None: ...

class LiveMark(_message.Message):
    __slots__ = ("update", "last", "mode", "reason", "asked_us")
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ASKED_US_FIELD_NUMBER: _ClassVar[int]
    update: int
    last: bool
    mode: str
    reason: str
    asked_us: int
    def __init__(self, update: _Optional[int] = ..., last: bool = ..., mode: _Optional[str] = ..., reason: _Optional[str] = ..., asked_us: _Optional[int] = ...) -> None: ...
