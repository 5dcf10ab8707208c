#!/bin/sh
# Brings the schemas of Temporal's two databases up to date (deploy/postgresql creates them); may run any number of times.
# The password comes by SQL_PASSWORD, which temporal-sql-tool reads itself.
set -eu
prepare() {
  tool="temporal-sql-tool --plugin postgres12 --ep $SQL_HOST -p $SQL_PORT -u $SQL_USER --db $1"
  # On a database that has its schema already this fails and says so; the update after it is what must succeed.
  $tool setup-schema -v 0.0 || true
  $tool update-schema --schema-name "postgresql/v12/$2"
}
prepare temporal temporal
prepare temporal_visibility visibility
