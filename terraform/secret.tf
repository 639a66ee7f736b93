locals {
  # A key of a region can't encrypt what Google replicates as it likes.
  # https://cloud.google.com/secret-manager/docs/cmek
  secret_locations = var.secret.locations != null ? var.secret.locations : var.kms_key != null ? [var.region] : null
}

# Without a version: the key never enters Terraform's state. Until somebody adds
# one (output next_steps), runs answer 503 key_missing.
resource "google_secret_manager_secret" "gti_api_key" {
  count = var.secret.existing == null ? 1 : 0

  project             = var.project_id
  secret_id           = local.secret_name
  labels              = local.labels
  deletion_protection = false # whoever has GTI can make a new key

  replication {
    dynamic "auto" {
      for_each = local.secret_locations == null ? [1] : []
      content {}
    }

    dynamic "user_managed" {
      for_each = local.secret_locations == null ? [] : [local.secret_locations]
      content {
        dynamic "replicas" {
          for_each = user_managed.value
          content {
            location = replicas.value

            dynamic "customer_managed_encryption" {
              for_each = local.kms_key_name[*]
              content {
                kms_key_name = customer_managed_encryption.value
              }
            }
          }
        }
      }
    }
  }

  lifecycle {
    # Where a secret lies can't be changed: another one would be made, without the API
    # key, and the old one deleted.
    ignore_changes = [replication]

    postcondition {
      condition = (
        join(" ", sort(flatten([for u in self.replication[0].user_managed : u.replicas[*].location]))) == join(" ", sort(local.secret_locations == null ? [] : local.secret_locations)) &&
        join(" ", distinct(flatten([for u in self.replication[0].user_managed : [for r in u.replicas : r.customer_managed_encryption[*].kms_key_name]]))) == join(" ", local.kms_key_name[*])
      )
      error_message = "secret.locations and kms_key: the secret ${local.secret_name} was made elsewhere or with another key, and can't be changed. Leave both as they were, or make a secret with the key in it and name that one in secret.existing."
    }
  }

  depends_on = [time_sleep.kms]
}
