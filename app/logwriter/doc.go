// Package logwriter lets a program log to whatever stands behind its standard error without depending on it.
//
// A reader that stalls (a full pipe), one that has gone (a closed pipe) and a full disk behind a redirection would each hold up or
// fail whoever logs. Here a line is only put into a bounded queue, and one goroutine writes. What does not fit, or cannot be
// written, is dropped and counted, and the next line that gets through is preceded by one that says how many are missing.
//
// Invariants: Write never waits for the output; memory is bounded; lines keep their order, and none is written in part and
// followed by another on the same line; Close waits for what is queued, but not longer than it was told to.
package logwriter
