-- What somebody has still to do something about, with its age in hours.
SELECT
  alert_id,
  title,
  alert_type,
  severity,
  priority,
  status,
  monitor_id,
  monitor_name,
  feed,
  created_at,
  updated_at,
  (UNIX_MILLIS(CURRENT_TIMESTAMP()) - UNIX_MILLIS(created_at)) / 3600000 AS age_hours
FROM ${alerts_current}
WHERE NOT closed
