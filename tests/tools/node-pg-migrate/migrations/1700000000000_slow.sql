-- Up Migration
SELECT pg_sleep(60);
