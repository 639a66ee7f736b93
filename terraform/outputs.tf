output "ingest_url" {
  description = "Address of the function Ingest."
  value       = google_cloudfunctions2_function.ingest.service_config[0].uri
}

output "topics" {
  description = "The topics' full names."
  value       = local.topic_ids

  depends_on = [google_pubsub_topic.alerts, google_pubsub_topic.rejects, google_pubsub_topic.status, google_pubsub_topic.dead_letters, google_pubsub_topic.alert_dead_letters]
}

output "subscriptions" {
  description = "The subscriptions' full names: of the rejects and the two kinds of dead letters, and those that alert_subscriptions, bigquery, archive and notify (notify-NAME) ask for."
  value = merge(
    { for name, s in google_pubsub_subscription.alerts : name => s.id },
    { for s in google_pubsub_subscription.bigquery : "bigquery" => s.id },
    { for s in google_pubsub_subscription.archive : "archive" => s.id },
    { for name, s in google_pubsub_subscription.notify : "notify-${name}" => s.id },
    {
      rejects            = google_pubsub_subscription.rejects.id
      dead_letters       = google_pubsub_subscription.dead_letters.id
      alert_dead_letters = google_pubsub_subscription.alert_dead_letters.id
    },
  )
}

output "bigquery_table" {
  description = "The table with the alerts, as PROJECT.DATASET.TABLE; its views are alerts_current, alerts_open and alerts_lifecycle. null without bigquery."
  value       = one([for t in google_bigquery_table.alerts : "${t.project}.${t.dataset_id}.${t.table_id}"])
}

output "archive_bucket" {
  description = "The bucket with the alerts' files; null without archive."
  value       = one(google_storage_bucket.archive[*].name)
}

output "service_accounts" {
  description = "E-mails of the service accounts by purpose, for grants on what is not made here."
  value       = { for purpose, account in local.accounts : purpose => account.email }
}

output "database" {
  description = "Id of the Firestore database."
  value       = local.database

  depends_on = [google_firestore_database.this]
}

output "secret" {
  description = "The secret with the API key, without a version."
  value       = local.secret_id

  depends_on = [google_secret_manager_secret.gti_api_key]
}

locals {
  console = "https://console.cloud.google.com"
  # In a path, unlike a query, a + is no space.
  log_query = replace(urlencode(join(" OR ", [for f in [google_cloudfunctions2_function.ingest.name, google_cloudfunctions2_function.sync.name] : "resource.labels.service_name=\"${f}\""])), "+", "%20")
  logs_url  = "${local.console}/logs/query;query=${local.log_query}?project=${var.project_id}"

  dashboard_url = one([for d in google_monitoring_dashboard.this : "${local.console}/monitoring/dashboards/builder/${basename(d.id)}?project=${var.project_id}"])
}

locals {
  who_is_told = (
    !var.monitoring.enabled ? "Nobody is: monitoring.enabled is false." :
    length(local.channels) == 0 ? "Nobody is: set monitoring.emails or monitoring.notification_channels, and apply." :
    "Incidents go to ${join(", ", concat(var.monitoring.emails, var.monitoring.notification_channels))}. In the console, a channel can be sent a test."
  )
}

output "logs_url" {
  description = "The functions' logs in the console."
  value       = local.logs_url
}

output "dashboard_url" {
  description = "The dashboard in the console; null when monitoring.enabled is false."
  value       = local.dashboard_url
}

output "next_steps" {
  description = "What to do after the first apply."
  value       = <<-EOT
    1. Put the API key into the secret (paste it, then Enter and Ctrl-D; white space around it does no harm). Until then runs answer 503 key_missing.
       gcloud secrets versions add ${local.secret_name} --project=${local.secret_project} --data-file=-

    2. Do a first run, as ${length(var.operators) == 0 ? "somebody with roles/run.invoker on the function" : "one of operators"}. The next ones come by themselves.
       URL=${google_cloudfunctions2_function.ingest.service_config[0].uri}
       curl "$URL/" -d '' -H "Authorization: Bearer $(gcloud auth print-identity-token)"
       curl "$URL/status" -H "Authorization: Bearer $(gcloud auth print-identity-token)"

    3. Get more of the past, if wanted.
       curl "$URL/backfill" -H "Authorization: Bearer $(gcloud auth print-identity-token)" -H 'Content-Type: application/json' -d '{"since":"96h"}'

    4. See that somebody is told. ${local.who_is_told}

    Logs:      ${local.logs_url}
    Dashboard: ${coalesce(local.dashboard_url, "none, because monitoring.enabled is false")}
  EOT
}
