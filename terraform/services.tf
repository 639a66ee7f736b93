# They stay enabled when this is destroyed: something else in the project may
# need them by then.
resource "google_project_service" "this" {
  for_each = toset(concat([
    "artifactregistry.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudfunctions.googleapis.com",
    "cloudscheduler.googleapis.com",
    "firestore.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "pubsub.googleapis.com",
    "run.googleapis.com",
    "secretmanager.googleapis.com",
    "serviceusage.googleapis.com",
    "storage.googleapis.com",
    ],
    local.writes_rows ? ["bigquery.googleapis.com"] : [],
    var.network == null ? [] : ["vpcaccess.googleapis.com"],
  ))

  project            = var.project_id
  service            = each.key
  disable_on_destroy = false
}

# Apart from the others: a change of their list must not make the project's number,
# and with it Google's own accounts, unknown to the plan, which would then take their
# grants away and make them anew.
resource "google_project_service" "resource_manager" {
  project            = var.project_id
  service            = "cloudresourcemanager.googleapis.com"
  disable_on_destroy = false
}

# A service that was enabled seconds ago still answers that it is disabled: the first
# apply would stop at whatever comes next. Nothing says how long that takes. Where a
# minute is too short, another apply goes on (README, "If the first apply stops").
resource "time_sleep" "services" {
  create_duration = "60s"

  # What is enabled later is waited for too.
  triggers = { services = join(",", sort(keys(google_project_service.this))) }

  depends_on = [google_project_service.this]
}

resource "time_sleep" "resource_manager" {
  create_duration = "60s"

  depends_on = [google_project_service.resource_manager]
}

data "google_project" "this" {
  project_id = var.project_id

  depends_on = [time_sleep.resource_manager]
}
