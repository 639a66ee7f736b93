-- The latest version of every alert.
WITH versions AS (
${versions}
)
SELECT *
FROM versions
WHERE TRUE
QUALIFY ROW_NUMBER() OVER (PARTITION BY alert_id ORDER BY version_at DESC, publish_time DESC) = 1
