package config

// Version and Commit are stamped by compile.sh.
var (
	Version = "dev"
	Commit  = ""
)

// FullVersion is what people see: the version, and the commit where it is known.
func FullVersion() string {
	if Commit == "" {
		return Version
	}
	return Version + " (" + Commit + ")"
}
