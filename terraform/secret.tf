# Without a version: the key never enters Terraform's state. Until somebody adds
# one (output next_steps), runs answer 503 key_missing.
resource "google_secret_manager_secret" "gti_api_key" {
  count = var.secret.existing == null ? 1 : 0

  project             = var.project_id
  secret_id           = local.secret_name
  labels              = local.labels
  deletion_protection = false # whoever has GTI can make a new key

  replication {
    auto {}
  }

  depends_on = [time_sleep.services]
}
