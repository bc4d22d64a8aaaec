// Package watch tells when the content of a file has changed, whatever replaced it: an editor that writes in place or renames, mv, a
// symlink that is swapped as Kubernetes does, a folder that is deleted and made anew, a file that appears later.
//
// It watches the folder of a file and not the file alone, the folder of each symlink on the way, and where the way ends too early, the
// folder in which the next piece will appear. The file itself is watched as well, because a single file mounted into a container is
// changed behind its folder's back. Events only say when to look: what counts is a hash of the content. It looks after a short
// quiet time, so that a half-written file is seldom seen, and slowly all the time, so that a lost event costs seconds at most. It
// knows nothing of templates and imports none of ours.
package watch
