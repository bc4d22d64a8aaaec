// Package plan compares two configuration texts of HAProxy and says what it takes to go from the one in force to the new one.
//
// It is pure: two bundles in, a Plan out. Servers that come, go or get another weight are steps at run time, where it is known that a
// worker that took them cannot be told from one that was started on the new text; whatever is not known to be equal is a reload, with
// every reason for it. It reads texts, not States, so that a user's own template is planned like ours.
package plan
