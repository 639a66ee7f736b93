# A key of your own: var.kms_key. Google's accounts of the services encrypt with it, so
# these need the right, and not ours.

locals {
  kms_key_name = try(var.kms_key.name, null)

  # https://cloud.google.com/iam/docs/service-agents
  # https://cloud.google.com/functions/docs/securing/cmek
  # https://cloud.google.com/bigquery/docs/customer-managed-encryption
  # With database.existing and secret.existing too: a database or a secret that was made
  # here, or restored from one, may lie under the key, and can't be read without it.
  kms_agents = merge(
    { for service, domain in {
      firestore = "gcp-sa-firestore"
      functions = "gcf-admin-robot"
      images    = "gcp-sa-artifactregistry"
      pubsub    = "gcp-sa-pubsub"
      run       = "serverless-robot-prod"
      secret    = "gcp-sa-secretmanager"
      storage   = "gs-project-accounts"
    } : service => "service-${data.google_project.this.number}@${domain}.iam.gserviceaccount.com" },
    var.bigquery == null ? {} : { bigquery = "bq-${data.google_project.this.number}@bigquery-encryption.iam.gserviceaccount.com" },
  )
}

resource "google_kms_crypto_key_iam_member" "agents" {
  for_each = try(var.kms_key.grants, false) ? local.kms_agents : {}

  crypto_key_id = local.kms_key_name
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:${each.value}"

  depends_on = [time_sleep.services]
}

# What takes the key waits for this. Without a key, or with grants made elsewhere, it is
# the services alone that it waits for.
resource "time_sleep" "kms" {
  create_duration = try(var.kms_key.grants, false) ? "120s" : "0s"

  triggers = { agents = join(",", keys(google_kms_crypto_key_iam_member.agents)), key = coalesce(local.kms_key_name, "none") }

  depends_on = [time_sleep.services, google_kms_crypto_key_iam_member.agents]
}
