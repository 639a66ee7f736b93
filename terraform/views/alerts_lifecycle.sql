-- One row for each alert: when it was first seen, triaged and closed.
--
-- first_seen is when the relay first published it. The hours count from created_at
-- instead, by GTI's clock alone: a backfill sees alerts long after they were handled.
-- An alert that was triaged before it was first seen has the time of the version
-- that was seen.
-- closed_at is null while the alert is open, also when it was closed before.
WITH versions AS (
${versions}
),
ordered AS (
  SELECT *, MAX(IF(closed, NULL, version_at)) OVER (PARTITION BY alert_id) AS last_open
  FROM versions
),
times AS (
  SELECT
    alert_id,
    MIN(publish_time) AS first_seen,
    MIN(IF(triaged, version_at, NULL)) AS first_triaged,
    MIN(IF(closed AND (last_open IS NULL OR version_at > last_open), version_at, NULL)) AS closed_at
  FROM ordered
  GROUP BY alert_id
)
SELECT
  latest.alert_id,
  latest.alert_type,
  latest.severity,
  latest.priority,
  latest.status,
  latest.created_at,
  times.first_seen,
  times.first_triaged,
  times.closed_at,
  (UNIX_MILLIS(times.first_triaged) - UNIX_MILLIS(latest.created_at)) / 3600000 AS hours_to_triage,
  (UNIX_MILLIS(times.closed_at) - UNIX_MILLIS(latest.created_at)) / 3600000 AS hours_to_closure
FROM ${alerts_current} AS latest
JOIN times ON times.alert_id = latest.alert_id
