resource "google_firestore_database" "this" {
  count = var.database.existing == null ? 1 : 0

  project     = var.project_id
  name        = local.database
  location_id = coalesce(var.database.location, var.region)
  type        = "FIRESTORE_NATIVE"

  point_in_time_recovery_enablement = var.database.point_in_time_recovery ? "POINT_IN_TIME_RECOVERY_ENABLED" : "POINT_IN_TIME_RECOVERY_DISABLED"

  # With DELETE and the protection on, destroy would stop here with an error.
  delete_protection_state = var.deletion_protection ? "DELETE_PROTECTION_ENABLED" : "DELETE_PROTECTION_DISABLED"
  deletion_policy         = var.deletion_protection ? "ABANDON" : "DELETE"

  dynamic "cmek_config" {
    for_each = local.kms_key_name[*]
    content {
      kms_key_name = cmek_config.value
    }
  }

  lifecycle {
    # Where a database lies, and by which key it is encrypted, can't be changed. A plan
    # that replaced it, because of another region, would leave it without its policies, or delete it with the position.
    ignore_changes = [location_id, cmek_config]

    postcondition {
      condition     = var.database.location == null || self.location_id == var.database.location
      error_message = "database.location: the database ${local.database} lies in ${self.location_id}, and can't be moved. Leave database.location as it was, or restore a copy elsewhere and name that one in database.existing."
    }
    postcondition {
      condition     = one(self.cmek_config[*].kms_key_name) == local.kms_key_name
      error_message = "kms_key: the database ${local.database} was made with another key, or without one, and can't be changed. Leave kms_key as it was, or restore a copy under the new key and name that one in database.existing."
    }
  }

  depends_on = [time_sleep.kms]
}

locals {
  set_policies = var.database.existing == null || var.database.policies == true

  # All fields of feeds/{feed}/alerts/{k} but expire_at (internal/state/firestore,
  # recordDocument). Nothing queries them: records are read by their names, and each
  # index that Firestore keeps by itself would be paid with each write. The map
  # "record" takes the indexes of all that is in it with it:
  # https://firebase.google.com/docs/firestore/solutions/index-map-field
  ledger_fields = [
    "record",
    "schema",
  ]
}

resource "google_firestore_field" "ledger" {
  for_each = toset(local.set_policies ? local.ledger_fields : [])

  project    = var.project_id
  database   = local.database
  collection = "alerts"
  field      = each.key

  index_config {} # none

  depends_on = [google_firestore_database.this]
}

# Records of alerts and of finished backfills delete themselves. The list of
# backfills goes by requested_at, so their other indexes stay.
resource "google_firestore_field" "expiry" {
  for_each = toset(local.set_policies ? ["alerts", "backfills"] : [])

  project    = var.project_id
  database   = local.database
  collection = each.key
  field      = "expire_at"

  ttl_config {}
  index_config {} # times that only grow make a hot spot of an index

  depends_on = [google_firestore_database.this, time_sleep.services]
}

# Backups outlive the database, but not the project.
# https://cloud.google.com/firestore/docs/backups
resource "google_firestore_backup_schedule" "this" {
  for_each = { for kind, days in { daily = var.database.daily_backup_days, weekly = var.database.weekly_backup_days } : kind => days if days != null }

  project   = var.project_id
  database  = local.database
  retention = "${each.value * 86400}s"

  dynamic "daily_recurrence" {
    for_each = each.key == "daily" ? [1] : []
    content {}
  }

  dynamic "weekly_recurrence" {
    for_each = each.key == "weekly" ? [1] : []
    content {
      day = "SUNDAY"
    }
  }

  depends_on = [google_firestore_database.this, time_sleep.services]
}
