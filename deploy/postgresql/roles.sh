#!/bin/bash
# Creates separate roles and databases for Keyturn and for Temporal: neither may connect to the other's.
# PostgreSQL's image runs it once, when its volume is new.
set -euo pipefail
psql --no-psqlrc --quiet --username "$POSTGRES_USER" --dbname postgres \
  --set ON_ERROR_STOP=1 --set keyturn="$KEYTURN_DB_PASSWORD" --set temporal="$TEMPORAL_DB_PASSWORD" <<'SQL'
CREATE ROLE keyturn LOGIN PASSWORD :'keyturn';
CREATE ROLE temporal LOGIN PASSWORD :'temporal';
CREATE DATABASE keyturn OWNER keyturn;
CREATE DATABASE temporal OWNER temporal;
CREATE DATABASE temporal_visibility OWNER temporal;
REVOKE CONNECT, TEMPORARY ON DATABASE keyturn FROM PUBLIC;
REVOKE CONNECT, TEMPORARY ON DATABASE temporal FROM PUBLIC;
REVOKE CONNECT, TEMPORARY ON DATABASE temporal_visibility FROM PUBLIC;
REVOKE CONNECT, TEMPORARY ON DATABASE postgres FROM PUBLIC;
SQL
