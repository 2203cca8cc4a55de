"""Enums of Flight SQL and Flight, as their numbers travel; a test compares them with the generated code.

The rule of this file: names and numbers are the protocol's own, so that a search finds both sides.
"""

from __future__ import annotations

from enum import IntEnum


class EndTransaction(IntEnum):
    """Values of ``ActionEndTransactionRequest.EndTransaction``."""

    END_TRANSACTION_UNSPECIFIED = 0
    END_TRANSACTION_COMMIT = 1
    END_TRANSACTION_ROLLBACK = 2


class EndSavepoint(IntEnum):
    """Values of ``ActionEndSavepointRequest.EndSavepoint``."""

    END_SAVEPOINT_UNSPECIFIED = 0
    END_SAVEPOINT_RELEASE = 1
    END_SAVEPOINT_ROLLBACK = 2


class TableNotExistOption(IntEnum):
    """Values of ``CommandStatementIngest.TableDefinitionOptions.TableNotExistOption``."""

    TABLE_NOT_EXIST_OPTION_UNSPECIFIED = 0
    TABLE_NOT_EXIST_OPTION_CREATE = 1
    TABLE_NOT_EXIST_OPTION_FAIL = 2


class TableExistsOption(IntEnum):
    """Values of ``CommandStatementIngest.TableDefinitionOptions.TableExistsOption``."""

    TABLE_EXISTS_OPTION_UNSPECIFIED = 0
    TABLE_EXISTS_OPTION_FAIL = 1
    TABLE_EXISTS_OPTION_APPEND = 2
    TABLE_EXISTS_OPTION_REPLACE = 3


class CancelResult(IntEnum):
    """Values of ``ActionCancelQueryResult.CancelResult``."""

    CANCEL_RESULT_UNSPECIFIED = 0
    CANCEL_RESULT_CANCELLED = 1
    CANCEL_RESULT_CANCELLING = 2
    CANCEL_RESULT_NOT_CANCELLABLE = 3


class DescriptorType(IntEnum):
    """Values of ``FlightDescriptor.DescriptorType``."""

    UNKNOWN = 0
    PATH = 1
    CMD = 2


class ErrorValue(IntEnum):
    """Values of ``SetSessionOptionsResult.ErrorValue``."""

    UNSPECIFIED = 0
    INVALID_NAME = 1
    INVALID_VALUE = 2
    ERROR = 3


class CloseSessionStatus(IntEnum):
    """Values of ``CloseSessionResult.Status``."""

    UNSPECIFIED = 0
    CLOSED = 1
    CLOSING = 2
    NOT_CLOSEABLE = 3


class SqlSupportedTransaction(IntEnum):
    """Values of ``SqlSupportedTransaction``."""

    SQL_SUPPORTED_TRANSACTION_NONE = 0
    SQL_SUPPORTED_TRANSACTION_TRANSACTION = 1
    SQL_SUPPORTED_TRANSACTION_SAVEPOINT = 2


class SqlSupportedCaseSensitivity(IntEnum):
    """Values of ``SqlSupportedCaseSensitivity``."""

    SQL_CASE_SENSITIVITY_UNKNOWN = 0
    SQL_CASE_SENSITIVITY_CASE_INSENSITIVE = 1
    SQL_CASE_SENSITIVITY_UPPERCASE = 2
    SQL_CASE_SENSITIVITY_LOWERCASE = 3


class SqlNullOrdering(IntEnum):
    """Values of ``SqlNullOrdering``."""

    SQL_NULLS_SORTED_HIGH = 0
    SQL_NULLS_SORTED_LOW = 1
    SQL_NULLS_SORTED_AT_START = 2
    SQL_NULLS_SORTED_AT_END = 3


class SupportedSqlGrammar(IntEnum):
    """Values of ``SupportedSqlGrammar``."""

    SQL_MINIMUM_GRAMMAR = 0
    SQL_CORE_GRAMMAR = 1
    SQL_EXTENDED_GRAMMAR = 2


class SupportedAnsi92SqlGrammarLevel(IntEnum):
    """Values of ``SupportedAnsi92SqlGrammarLevel``."""

    ANSI92_ENTRY_SQL = 0
    ANSI92_INTERMEDIATE_SQL = 1
    ANSI92_FULL_SQL = 2


class SqlOuterJoinsSupportLevel(IntEnum):
    """Values of ``SqlOuterJoinsSupportLevel``."""

    SQL_JOINS_UNSUPPORTED = 0
    SQL_LIMITED_OUTER_JOINS = 1
    SQL_FULL_OUTER_JOINS = 2


class SqlSupportedGroupBy(IntEnum):
    """Values of ``SqlSupportedGroupBy``."""

    SQL_GROUP_BY_UNRELATED = 0
    SQL_GROUP_BY_BEYOND_SELECT = 1


class SqlSupportedElementActions(IntEnum):
    """Values of ``SqlSupportedElementActions``."""

    SQL_ELEMENT_IN_PROCEDURE_CALLS = 0
    SQL_ELEMENT_IN_INDEX_DEFINITIONS = 1
    SQL_ELEMENT_IN_PRIVILEGE_DEFINITIONS = 2


class SqlSupportedPositionedCommands(IntEnum):
    """Values of ``SqlSupportedPositionedCommands``."""

    SQL_POSITIONED_DELETE = 0
    SQL_POSITIONED_UPDATE = 1


class SqlSupportedSubqueries(IntEnum):
    """Values of ``SqlSupportedSubqueries``."""

    SQL_SUBQUERIES_IN_COMPARISONS = 0
    SQL_SUBQUERIES_IN_EXISTS = 1
    SQL_SUBQUERIES_IN_INS = 2
    SQL_SUBQUERIES_IN_QUANTIFIEDS = 3


class SqlSupportedUnions(IntEnum):
    """Values of ``SqlSupportedUnions``."""

    SQL_UNION = 0
    SQL_UNION_ALL = 1


class SqlTransactionIsolationLevel(IntEnum):
    """Values of ``SqlTransactionIsolationLevel``."""

    SQL_TRANSACTION_NONE = 0
    SQL_TRANSACTION_READ_UNCOMMITTED = 1
    SQL_TRANSACTION_READ_COMMITTED = 2
    SQL_TRANSACTION_REPEATABLE_READ = 3
    SQL_TRANSACTION_SERIALIZABLE = 4


class SqlSupportedTransactions(IntEnum):
    """Values of ``SqlSupportedTransactions``."""

    SQL_TRANSACTION_UNSPECIFIED = 0
    SQL_DATA_DEFINITION_TRANSACTIONS = 1
    SQL_DATA_MANIPULATION_TRANSACTIONS = 2


class SqlSupportedResultSetType(IntEnum):
    """Values of ``SqlSupportedResultSetType``."""

    SQL_RESULT_SET_TYPE_UNSPECIFIED = 0
    SQL_RESULT_SET_TYPE_FORWARD_ONLY = 1
    SQL_RESULT_SET_TYPE_SCROLL_INSENSITIVE = 2
    SQL_RESULT_SET_TYPE_SCROLL_SENSITIVE = 3


class SqlSupportedResultSetConcurrency(IntEnum):
    """Values of ``SqlSupportedResultSetConcurrency``."""

    SQL_RESULT_SET_CONCURRENCY_UNSPECIFIED = 0
    SQL_RESULT_SET_CONCURRENCY_READ_ONLY = 1
    SQL_RESULT_SET_CONCURRENCY_UPDATABLE = 2


class SqlSupportsConvert(IntEnum):
    """Values of ``SqlSupportsConvert``."""

    SQL_CONVERT_BIGINT = 0
    SQL_CONVERT_BINARY = 1
    SQL_CONVERT_BIT = 2
    SQL_CONVERT_CHAR = 3
    SQL_CONVERT_DATE = 4
    SQL_CONVERT_DECIMAL = 5
    SQL_CONVERT_FLOAT = 6
    SQL_CONVERT_INTEGER = 7
    SQL_CONVERT_INTERVAL_DAY_TIME = 8
    SQL_CONVERT_INTERVAL_YEAR_MONTH = 9
    SQL_CONVERT_LONGVARBINARY = 10
    SQL_CONVERT_LONGVARCHAR = 11
    SQL_CONVERT_NUMERIC = 12
    SQL_CONVERT_REAL = 13
    SQL_CONVERT_SMALLINT = 14
    SQL_CONVERT_TIME = 15
    SQL_CONVERT_TIMESTAMP = 16
    SQL_CONVERT_TINYINT = 17
    SQL_CONVERT_VARBINARY = 18
    SQL_CONVERT_VARCHAR = 19


class XdbcDataType(IntEnum):
    """Values of ``XdbcDataType``."""

    XDBC_UNKNOWN_TYPE = 0
    XDBC_CHAR = 1
    XDBC_NUMERIC = 2
    XDBC_DECIMAL = 3
    XDBC_INTEGER = 4
    XDBC_SMALLINT = 5
    XDBC_FLOAT = 6
    XDBC_REAL = 7
    XDBC_DOUBLE = 8
    XDBC_DATETIME = 9
    XDBC_INTERVAL = 10
    XDBC_VARCHAR = 12
    XDBC_DATE = 91
    XDBC_TIME = 92
    XDBC_TIMESTAMP = 93
    XDBC_LONGVARCHAR = -1
    XDBC_BINARY = -2
    XDBC_VARBINARY = -3
    XDBC_LONGVARBINARY = -4
    XDBC_BIGINT = -5
    XDBC_TINYINT = -6
    XDBC_BIT = -7
    XDBC_WCHAR = -8
    XDBC_WVARCHAR = -9


class XdbcDatetimeSubcode(IntEnum):
    """Values of ``XdbcDatetimeSubcode``."""

    XDBC_SUBCODE_UNKNOWN = 0
    XDBC_SUBCODE_YEAR = 1
    XDBC_SUBCODE_DATE = 1
    XDBC_SUBCODE_TIME = 2
    XDBC_SUBCODE_MONTH = 2
    XDBC_SUBCODE_TIMESTAMP = 3
    XDBC_SUBCODE_DAY = 3
    XDBC_SUBCODE_TIME_WITH_TIMEZONE = 4
    XDBC_SUBCODE_HOUR = 4
    XDBC_SUBCODE_TIMESTAMP_WITH_TIMEZONE = 5
    XDBC_SUBCODE_MINUTE = 5
    XDBC_SUBCODE_SECOND = 6
    XDBC_SUBCODE_YEAR_TO_MONTH = 7
    XDBC_SUBCODE_DAY_TO_HOUR = 8
    XDBC_SUBCODE_DAY_TO_MINUTE = 9
    XDBC_SUBCODE_DAY_TO_SECOND = 10
    XDBC_SUBCODE_HOUR_TO_MINUTE = 11
    XDBC_SUBCODE_HOUR_TO_SECOND = 12
    XDBC_SUBCODE_MINUTE_TO_SECOND = 13
    XDBC_SUBCODE_INTERVAL_YEAR = 101
    XDBC_SUBCODE_INTERVAL_MONTH = 102
    XDBC_SUBCODE_INTERVAL_DAY = 103
    XDBC_SUBCODE_INTERVAL_HOUR = 104
    XDBC_SUBCODE_INTERVAL_MINUTE = 105
    XDBC_SUBCODE_INTERVAL_SECOND = 106
    XDBC_SUBCODE_INTERVAL_YEAR_TO_MONTH = 107
    XDBC_SUBCODE_INTERVAL_DAY_TO_HOUR = 108
    XDBC_SUBCODE_INTERVAL_DAY_TO_MINUTE = 109
    XDBC_SUBCODE_INTERVAL_DAY_TO_SECOND = 110
    XDBC_SUBCODE_INTERVAL_HOUR_TO_MINUTE = 111
    XDBC_SUBCODE_INTERVAL_HOUR_TO_SECOND = 112
    XDBC_SUBCODE_INTERVAL_MINUTE_TO_SECOND = 113


class Nullable(IntEnum):
    """Values of ``Nullable``."""

    NULLABILITY_NO_NULLS = 0
    NULLABILITY_NULLABLE = 1
    NULLABILITY_UNKNOWN = 2


class Searchable(IntEnum):
    """Values of ``Searchable``."""

    SEARCHABLE_NONE = 0
    SEARCHABLE_CHAR = 1
    SEARCHABLE_BASIC = 2
    SEARCHABLE_FULL = 3


class UpdateDeleteRules(IntEnum):
    """Values of ``UpdateDeleteRules``."""

    CASCADE = 0
    RESTRICT = 1
    SET_NULL = 2
    NO_ACTION = 3
    SET_DEFAULT = 4


class CancelStatus(IntEnum):
    """Values of ``CancelStatus``."""

    CANCEL_STATUS_UNSPECIFIED = 0
    CANCEL_STATUS_CANCELLED = 1
    CANCEL_STATUS_CANCELLING = 2
    CANCEL_STATUS_NOT_CANCELLABLE = 3
