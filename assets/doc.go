// Package assets holds files that people name and HAProxy reads: they are read, judged and named by their content here, so that a file
// that breaks later takes nothing down and a changed one is a change like any other.
package assets
