# Every identity and every right. docs/security.md has the table, and
# tests/identities.tftest.hcl compares.
#
# Each right is granted on the one resource that it is for. On the project are
# only: the right to write build logs and to fetch the copy of the source, and
# the database's, which no smaller thing can carry; the latter two are cut down by
# conditions. The functions need no right to log: Cloud Run collects their output.

locals {
  # One account for each purpose, so that a right given for one serves no other.
  # There is none for notify: a token of Google's is nothing to show to a chat.
  account_purposes = merge(
    {
      ingest    = "function Ingest"
      sync      = "function SyncStatus"
      scheduler = "Cloud Scheduler calls Ingest"
      push      = "Pub/Sub calls SyncStatus"
      build     = "Cloud Build builds the functions"
    },
    anytrue([for s in values(var.alert_subscriptions) : s.push_endpoint != null]) ? { alerts = "Pub/Sub pushes alerts to their receivers" } : {},
    local.writes_rows ? { bigquery = "Pub/Sub writes rows of BigQuery" } : {},
  )

  accounts = merge(
    { for purpose, account in google_service_account.this : purpose => {
      email  = account.email
      member = account.member
      name   = account.name
    } },
    { for purpose, email in var.service_accounts : purpose => {
      email  = email
      member = "serviceAccount:${email}"
      name   = "projects/${regex("@([^.]+)", email)[0]}/serviceAccounts/${email}"
    } if email != null && contains(keys(local.account_purposes), purpose) },
  )
}

resource "google_service_account" "this" {
  for_each = { for purpose, text in local.account_purposes : purpose => text if var.service_accounts[purpose] == null }

  project      = var.project_id
  account_id   = "${local.short_name}-${each.key}"
  display_name = "${local.name}: ${each.value}"

  depends_on = [time_sleep.services]
}

# The functions

locals {
  functions = {
    ingest = local.accounts.ingest.member
    sync   = local.accounts.sync.member
  }
}

resource "google_pubsub_topic_iam_member" "publisher" {
  for_each = { for name, grant in {
    "ingest alerts"  = { topic = google_pubsub_topic.alerts.name, member = local.functions.ingest }
    "ingest rejects" = { topic = google_pubsub_topic.rejects.name, member = local.functions.ingest }
    "ingest status"  = { topic = google_pubsub_topic.status.name, member = local.functions.ingest }
    "sync rejects"   = { topic = google_pubsub_topic.rejects.name, member = local.functions.sync }
  } : name => grant if name != "ingest status" || local.rules_write_back }

  project = var.project_id
  topic   = each.value.topic
  role    = "roles/pubsub.publisher"
  member  = each.value.member
}

resource "google_secret_manager_secret_iam_member" "accessor" {
  for_each = local.functions

  project   = local.secret_project
  secret_id = local.secret_name
  role      = "roles/secretmanager.secretAccessor"
  member    = each.value

  depends_on = [google_secret_manager_secret.gti_api_key]
}

# roles/datastore.user without the right to delete, and without what only consoles use.
# The functions never delete a document: those that are done with expire (database.tf).
# https://cloud.google.com/firestore/docs/security/iam#required_permissions
resource "google_project_iam_custom_role" "database" {
  project     = var.project_id
  role_id     = "${replace(local.name, "-", "_")}_state"
  title       = "${local.name}: state"
  description = "Reads and writes documents of Firestore, and deletes none"
  permissions = [
    "datastore.entities.create",
    "datastore.entities.get",
    "datastore.entities.list",
    "datastore.entities.update",
  ]

  depends_on = [time_sleep.services]
}

resource "google_project_iam_member" "database" {
  for_each = local.functions

  project = var.project_id
  role    = google_project_iam_custom_role.database.id
  member  = each.value

  condition {
    title      = "database ${local.database}"
    expression = "resource.name == \"projects/${var.project_id}/databases/${local.database}\""
  }

  depends_on = [time_sleep.services, time_sleep.resource_manager]
}

# Who calls them

resource "google_cloud_run_v2_service_iam_member" "scheduler" {
  project  = var.project_id
  location = var.region
  name     = google_cloudfunctions2_function.ingest.name # the service has the function's name
  role     = "roles/run.invoker"
  member   = local.accounts.scheduler.member

  lifecycle {
    replace_triggered_by = [google_cloudfunctions2_function.ingest.id] # a new service has no grants
  }
}

resource "google_cloud_run_v2_service_iam_member" "push" {
  project  = var.project_id
  location = var.region
  name     = google_cloudfunctions2_function.sync.name
  role     = "roles/run.invoker"
  member   = local.accounts.push.member

  lifecycle {
    replace_triggered_by = [google_cloudfunctions2_function.sync.id]
  }
}

# Who may call Ingest by hand, by e-mail: the function reads the same lists (OPERATORS,
# VIEWERS), and tells the two apart.
resource "google_cloud_run_v2_service_iam_member" "callers" {
  for_each = toset(concat(var.operators, var.viewers))

  project  = var.project_id
  location = var.region
  name     = google_cloudfunctions2_function.ingest.name
  role     = "roles/run.invoker"
  member   = "${endswith(each.key, ".gserviceaccount.com") ? "serviceAccount" : "user"}:${each.key}"

  lifecycle {
    replace_triggered_by = [google_cloudfunctions2_function.ingest.id]
  }
}

# Who publishes and reads messages

resource "google_pubsub_topic_iam_member" "status_publishers" {
  for_each = toset(var.status_publishers)

  project = var.project_id
  topic   = google_pubsub_topic.status.name
  role    = "roles/pubsub.publisher"
  member  = each.key
}

resource "google_pubsub_subscription_iam_member" "alert_subscribers" {
  for_each = { for pair in distinct(concat(
    [for pair in setproduct(local.pulled, var.alert_subscribers) : join(" ", pair)],
    flatten([for name, s in var.alert_subscriptions : [for member in s.subscribers : "${name} ${member}"]]),
  )) : pair => split(" ", pair) }

  project      = var.project_id
  subscription = google_pubsub_subscription.alerts[each.value[0]].name
  role         = "roles/pubsub.subscriber"
  member       = each.value[1]
}

# The build

resource "google_project_iam_member" "build_logs" {
  project = var.project_id
  role    = "roles/logging.logWriter"
  member  = local.accounts.build.member

  depends_on = [time_sleep.services, time_sleep.resource_manager]
}

resource "google_artifact_registry_repository_iam_member" "build" {
  project    = var.project_id
  location   = var.region
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.writer"
  member     = local.accounts.build.member
}

resource "google_storage_bucket_iam_member" "build" {
  bucket = local.source.bucket
  role   = "roles/storage.objectViewer"
  member = local.accounts.build.member
}

# Cloud Functions copies the source into a bucket of the project that it makes
# with the first function of a region, and the build fetches it from there:
# https://github.com/hashicorp/terraform-provider-google/issues/20571
resource "google_project_iam_member" "build_source" {
  project = var.project_id
  role    = "roles/storage.objectViewer"
  member  = local.accounts.build.member

  condition {
    title = "source of ${local.name}"
    expression = join(" || ", [for function in ["ingest", "sync"] :
      local.kms_key_name == null
      ? "resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-${data.google_project.this.number}-${var.region}/objects/${local.name}-${function}/\")"
      # With a key the bucket's name goes on with a hash of it:
      # https://cloud.google.com/functions/docs/securing/cmek
      : "(resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-${data.google_project.this.number}-${var.region}-\") && resource.name.extract(\"/objects/{folder}/\") == \"${local.name}-${function}\")"
    ])
  }
}

# A grant takes a minute or two to be known everywhere, and what needs it before that
# is refused: a build that can't read its source, a subscription that may not write.
resource "time_sleep" "build" {
  create_duration = "120s"

  triggers = { account = local.accounts.build.email } # another one is waited for too

  depends_on = [
    google_artifact_registry_repository_iam_member.build,
    google_project_iam_member.build_logs,
    google_project_iam_member.build_source,
    google_storage_bucket_iam_member.build,
  ]
}

resource "time_sleep" "delivery" {
  create_duration = "120s"

  # An account, table or bucket that is given later is waited for too.
  triggers = {
    accounts = join(",", [for purpose in ["push", "alerts", "bigquery"] : local.accounts[purpose].email if contains(keys(local.account_purposes), purpose)])
    tables   = join(",", [for t in values(local.bigquery_tables) : join(".", t)])
    dataset  = var.bigquery == null ? "" : local.dataset
    archive  = var.archive == null ? "" : google_storage_bucket.archive[0].name
  }

  depends_on = [
    google_bigquery_table_iam_member.alerts,
    google_bigquery_table_iam_member.bigquery,
    google_pubsub_topic_iam_member.agent_dead_letters,
    google_service_account_iam_member.agent_bigquery,
    google_service_account_iam_member.agent_push,
    google_storage_bucket_iam_member.agent_archive,
  ]
}

# Google's own account of Pub/Sub. Google makes it when the project first uses
# Pub/Sub, and a grant to an account that doesn't exist is an error: so topics and
# a subscription come first. If the error comes all the same, this makes it, and
# another apply goes on:
# gcloud beta services identity create --service=pubsub.googleapis.com --project=PROJECT

locals {
  # The provider has no data source for it in a release that isn't beta; its address is
  # documented: https://cloud.google.com/iam/docs/service-agents
  pubsub_agent = "serviceAccount:service-${data.google_project.this.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}

resource "google_pubsub_topic_iam_member" "agent_dead_letters" {
  for_each = {
    writebacks = google_pubsub_topic.dead_letters.name
    alerts     = google_pubsub_topic.alert_dead_letters.name
  }

  project = var.project_id
  topic   = each.value
  role    = "roles/pubsub.publisher"
  member  = local.pubsub_agent

  depends_on = [google_pubsub_subscription.dead_letters, google_pubsub_subscription.rejects]
}

# To take a message off the subscription that it has put on the dead letters.
resource "google_pubsub_subscription_iam_member" "agent_status" {
  project      = var.project_id
  subscription = google_pubsub_subscription.status_push.name
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent
}

resource "google_pubsub_subscription_iam_member" "agent_alerts" {
  for_each = local.delivered

  project      = var.project_id
  subscription = google_pubsub_subscription.alerts[each.key].name
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent
}

# To sign the token of a push, and nothing else in that account's name.
resource "google_service_account_iam_member" "agent_push" {
  for_each = toset([for purpose in ["push", "alerts"] : purpose if contains(keys(local.account_purposes), purpose)])

  service_account_id = local.accounts[each.key].name
  role               = "roles/iam.serviceAccountOpenIdTokenCreator"
  member             = local.pubsub_agent

  depends_on = [google_pubsub_subscription.dead_letters, google_pubsub_subscription.rejects]
}

# To write rows as the account that may write them.
# https://cloud.google.com/pubsub/docs/create-bigquery-subscription
resource "google_service_account_iam_member" "agent_bigquery" {
  count = local.writes_rows ? 1 : 0

  service_account_id = local.accounts.bigquery.name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = local.pubsub_agent

  depends_on = [google_pubsub_subscription.dead_letters, google_pubsub_subscription.rejects]
}

resource "google_bigquery_table_iam_member" "alerts" {
  for_each = local.bigquery_tables

  project    = each.value[0]
  dataset_id = each.value[1]
  table_id   = each.value[2]
  role       = "roles/bigquery.dataEditor"
  member     = local.accounts.bigquery.member
}

resource "google_bigquery_table_iam_member" "bigquery" {
  count = var.bigquery == null ? 0 : 1

  project    = var.project_id
  dataset_id = google_bigquery_dataset.alerts[0].dataset_id
  table_id   = google_bigquery_table.alerts[0].table_id
  role       = "roles/bigquery.dataEditor"
  member     = local.accounts.bigquery.member
}

# The same account for the consumers that var.bigquery, var.archive and var.notify ask for.

resource "google_pubsub_subscription_iam_member" "agent_consumers" {
  for_each = merge(
    { for s in google_pubsub_subscription.bigquery : "bigquery" => s.name },
    { for s in google_pubsub_subscription.archive : "archive" => s.name },
    { for name, s in google_pubsub_subscription.notify : "notify-${name}" => s.name },
  )

  project      = var.project_id
  subscription = each.value
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent
}

# To write files, and to look the bucket up.
resource "google_storage_bucket_iam_member" "agent_archive" {
  for_each = toset(var.archive == null ? [] : ["roles/storage.objectCreator", "roles/storage.legacyBucketReader"])

  bucket = google_storage_bucket.archive[0].name
  role   = each.key
  member = local.pubsub_agent

  depends_on = [google_pubsub_subscription.dead_letters, google_pubsub_subscription.rejects]
}
