// SPDX-License-Identifier: MIT
/* A guest that keeps a table in SQLite, in memory. */
#include <sqlite3.h>
#include "base/base.h"

static sqlite3 *base;
static sqlite3_int64 sum;

/* The one number that a query gives. */
static sqlite3_int64 number(const char *query)
{
	sqlite3_stmt *statement;
	sqlite3_int64 n = -1;

	if (sqlite3_prepare_v2(base, query, -1, &statement, NULL) == SQLITE_OK &&
	    sqlite3_step(statement) == SQLITE_ROW)
		n = sqlite3_column_int64(statement, 0);
	sqlite3_finalize(statement);
	return n;
}

static bool intact(void)
{
	return number("SELECT sum(length(text) * key) FROM entry") == sum;
}

int main(void)
{
	if (sqlite3_open(":memory:", &base) != SQLITE_OK ||
	    sqlite3_exec(base, "CREATE TABLE entry(key INTEGER PRIMARY KEY, text);"
			 "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
			 " WHERE i < 2000)"
			 "INSERT INTO entry SELECT i, printf('entry %d of %x', i, i * i) FROM n",
			 NULL, NULL, NULL) != SQLITE_OK)
		return 1;
	sum = number("SELECT sum(length(text) * key) FROM entry");
	return sum > 0 ? serve(intact) : 1;
}
