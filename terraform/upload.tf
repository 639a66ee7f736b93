# Which files are uploaded. .gcloudignore says it once, for gcloud and for Terraform.
# Without a resource in this file, a test can ask Terraform for the lists alone
# (internal/e2e/upload_test.go).

locals {
  root = "${path.module}/.."

  # Patterns of files: the others of these lines are folders, which gcloud has to be told
  # that it may look into.
  shipped_patterns = [for line in split("\n", file("${local.root}/.gcloudignore")) : trimprefix(line, "!/") if startswith(line, "!/") && !endswith(line, "/")]
  shipped          = { for f in flatten([for pattern in local.shipped_patterns : tolist(fileset(local.root, pattern))]) : f => dirname(f)... }

  shipped_folders = { for folder in flatten([for folder in keys({ for f, folders in local.shipped : folders[0] => true... }) :
    [for depth in range(length(split("/", folder))) : join("/", slice(split("/", folder), 0, depth + 1))]
  ]) : folder => true... }

  # A folder that nothing is shipped of is left out as a whole: with each file by its name
  # a plan takes a second for a thousand of them. archive_file takes names as patterns, so
  # a name that is one would not mean itself: see odd_names.
  others_by_folder = { for f in fileset(local.root, "**") : dirname(f) => f... if !can(local.shipped[f]) }
  not_shipped = distinct(flatten([for folder, files in local.others_by_folder :
    can(local.shipped_folders[folder]) ? files : [can(local.shipped_folders[split("/", folder)[0]]) ? folder : split("/", folder)[0]]
  ]))
  odd_names = [for f in local.not_shipped : f if can(regex("[*?{}\\[\\]\\\\]", f))]

  # What may lie at the top beside the source: the repository's, and what its commands
  # and the tools of developers leave there. All of it stays here.
  known_tops = ["README.md", "docs", "terraform", "dist", "dtmrelay", "dtmrelay-data"]
  unknown = [for name in local.not_shipped : name
    if !strcontains(name, "/") && !contains(local.known_tops, name) && !startswith(name, ".") && !can(regex("\\.(test|prof|out)$", name))
  ]
}
