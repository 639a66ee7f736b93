resource "google_cloud_scheduler_job" "ingest" {
  project     = var.project_id
  region      = var.region
  name        = "${local.name}-ingest"
  description = "Begins a run of ${google_cloudfunctions2_function.ingest.name}"

  schedule  = local.cron
  time_zone = var.schedule.time_zone
  paused    = var.schedule.paused

  # Longer than the function may take, so that an attempt is over when it counts
  # as failed.
  attempt_deadline = "${var.ingest.timeout_seconds + 30}s"

  # A run that failed is worth another try or two; the one after that is the next
  # on the schedule. Each failure may cost answers of the hour's errors (local.live_errors).
  retry_config {
    retry_count          = 2
    min_backoff_duration = "30s"
    max_backoff_duration = "120s"
    max_doublings        = 2
  }

  http_target {
    http_method = "POST"
    uri         = "${google_cloudfunctions2_function.ingest.service_config[0].uri}/"

    oidc_token {
      service_account_email = local.accounts.scheduler.email
      audience              = google_cloudfunctions2_function.ingest.service_config[0].uri
    }
  }

  depends_on = [google_cloud_run_v2_service_iam_member.scheduler]
}
