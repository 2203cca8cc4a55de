"""Names that SqlInfo lists: keywords and scalar functions of duckdb 2.0.0.

The rule of this file: data only. The keywords are all of ``duckdb_keywords()``; the functions are those of
``duckdb_functions()`` that a person or a BI tool would write, by group. A test holds both against the installed duckdb.
"""

from __future__ import annotations

from typing import Final


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


KEYWORDS: Final = _names(
    """
    abort absolute access action add admin after aggregate all also alter always analyse analyze and anti any approx
    array as asc asof assertion assignment asymmetric at attach attribute authorization backward before begin
    between bigint binary bit boolean both by cache call called cascade cascaded case cast catalog centuries century
    chain char character characteristics check checkpoint class close cluster coalesce collate collation column
    columns comment comments commit committed compression concurrently configuration conflict connect connection
    constraint constraints content continue conversion copy cost create cross csv cube current cursor cycle data
    database day days deallocate dec decade decades decimal declare default defaults deferrable deferred definer
    delete delimiter delimiters depends desc describe destroy detach dictionary disable discard disconnect distance
    distinct do document domain double drop each else enable encoding encrypted end enum error escape event exact
    except exclude excluding exclusive execute exists explain export export_state extension extensions external
    extract false family fetch filter first float following for force foreign forward freeze from full function
    functions generated glob global grant granted group grouping grouping_id groups handler having header hold hour
    hours identity if ignore ilike immediate immutable implicit import in include including increment index indexes
    inherit inherits initially inline inner inout input insensitive insert install instead int integer intersect
    interval into invoker is isnull isolation join json key label lambda language large last lateral leading
    leakproof left level like limit listen load local location lock locked logged macro map mapping match matched
    materialized maxvalue merge method microsecond microseconds millennia millennium millisecond milliseconds minute
    minutes minvalue mode month months move name names national natural nchar nearest new next no none not nothing
    notify notnull nowait null nullif nulls numeric object of off offset oids old on only operator option options or
    order ordinality others out outer over overlaps overlay overriding owned owner parallel parser partial partition
    partitioned passing password percent persistent pivot pivot_longer pivot_wider placing plans policy position
    positional pragma preceding precision prepare prepared preserve primary prior privileges procedural procedure
    program publication qualify quarter quarters quote range read real reassign recheck recursive ref references
    referencing refresh register reindex relative release rename repeatable replace replica reset resource resources
    respect restart restrict returning returns revoke right role rollback rollup row rows rule sample savepoint
    schema schemas scope scroll search second seconds secret secure security select semi sequence sequences
    serializable server session set setof sets share show similar similarity simple skip smallint snapshot some
    sorted source sql stable standalone start statement statistics stdin stdout storage stored strict strip struct
    subscription substring summarize symmetric sysid system table tables tablesample tablespace target temp template
    temporary text then ties time timestamp to trailing transaction transform treat trigger trim true truncate
    trusted try_cast tuple type types unbounded uncommitted unencrypted union unique unknown unlisten unlogged
    unpack unpivot until update use user using vacuum valid validate validator value values varchar variable
    variadic varying verbose version view views virtual volatile week weeks when where whitespace window with within
    without work wrapper write xml xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse
    xmlpi xmlroot xmlserialize xmltable year years yes zone
    """
)
"""Every word that the parser knows, reserved or not."""

NUMERIC_FUNCTIONS: Final = _names(
    """
    abs acos acosh asin asinh atan atan2 atanh bit_count cbrt ceil ceiling cos cosh cot degrees divide even exp
    factorial fdiv floor fmod gamma gcd greatest greatest_common_divisor isfinite isinf isnan lcm least
    least_common_multiple lgamma ln log log10 log2 mod nextafter pi pow power radians random round round_even
    roundbankers setseed sign signbit sin sinh sqrt tan tanh trunc xor
    """
)
"""Numbers to numbers."""

STRING_FUNCTIONS: Final = _names(
    """
    array_to_string ascii bar base64 bin bit_length char_length character_length chr concat concat_ws contains
    damerau_levenshtein decode editdist3 encode ends_with format format_bytes from_base64 from_hex hamming hash hex
    instr jaccard jaro_similarity jaro_winkler_similarity lcase left left_grapheme length length_grapheme
    levenshtein lower lpad ltrim md5 mismatches nfc_normalize octet_length ord overlay parse_dirname parse_dirpath
    parse_filename parse_path position prefix printf regexp_escape regexp_extract regexp_extract_all
    regexp_full_match regexp_matches regexp_replace regexp_split_to_array repeat replace reverse right
    right_grapheme rpad rtrim sha1 sha256 split split_part starts_with str_split str_split_regex string_split
    string_split_regex string_to_array strip_accents strlen strpos substr substring substring_grapheme suffix
    to_base to_base64 to_hex translate trim ucase unbin unhex unicode upper url_decode url_encode
    """
)
"""Text and bytes."""

SYSTEM_FUNCTIONS: Final = _names(
    """
    current_catalog current_database current_query current_role current_schema current_schemas current_user
    nullif session_user typeof user version
    """
)
"""What JDBC counts as system functions: the session and NULL."""

DATETIME_FUNCTIONS: Final = _names(
    """
    age century current_date current_localtime current_localtimestamp date_add date_diff date_part date_sub
    date_trunc datediff datepart datesub datetrunc day dayname dayofmonth dayofweek dayofyear days_in_month decade
    epoch epoch_ms epoch_ns epoch_us era get_current_time get_current_timestamp hour isodow isoyear julian last_day
    make_date make_time make_timestamp make_timestamp_ms make_timestamp_ns make_timestamptz microsecond millennium
    millisecond minute month monthname nanosecond now quarter second strftime strptime time_bucket timezone
    timezone_hour timezone_minute to_days to_hours to_microseconds to_milliseconds to_minutes to_months to_seconds
    to_timestamp to_weeks to_years today transaction_timestamp try_strptime week weekday weekofyear year yearweek
    """
)
"""Dates, times and intervals. now() and get_current_timestamp() give UTC without zone here."""
