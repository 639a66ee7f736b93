# Which files are uploaded. .gcloudignore says it once, for gcloud and for Terraform.
# Without a resource in this file, a test can ask Terraform for the lists alone
# (internal/e2e/upload_test.go).

locals {
  root = "${path.module}/.."

  # Patterns of files: the others of these lines are folders, which gcloud has to be told
  # that it may look into.
  shipped_patterns = [for line in split("\n", file("${local.root}/.gcloudignore")) : trimprefix(line, "!/") if startswith(line, "!/") && !endswith(line, "/")]
  shipped          = toset(flatten([for pattern in local.shipped_patterns : tolist(fileset(local.root, pattern))]))

  # A folder that nothing is shipped of is left out as a whole. archive_file takes names
  # as patterns, so a name that is one would not mean itself: see odd_names.
  shipped_tops = distinct([for f in local.shipped : split("/", f)[0]])
  all_tops     = distinct([for f in fileset(local.root, "**") : split("/", f)[0]])
  not_shipped = concat(
    tolist(setsubtract(local.all_tops, local.shipped_tops)),
    flatten([for top in local.shipped_tops : tolist(setsubtract(fileset(local.root, "${top}/**"), local.shipped))]),
  )
  odd_names = [for f in local.not_shipped : f if can(regex("[*?{}\\[\\]\\\\]", f))]

  # What may lie at the top beside the source: the repository's, and what its commands
  # and the tools of developers leave there. All of it stays here.
  known_tops = ["README.md", "docs", "terraform", "dist", "dtmrelay", "dtmrelay-data"]
  unknown = [for name in setsubtract(local.all_tops, local.shipped_tops) : name
    if !contains(local.known_tops, name) && !startswith(name, ".") && !can(regex("\\.(test|prof|out)$", name))
  ]
}
