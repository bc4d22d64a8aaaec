// Package plan compares two configuration texts of HAProxy and says what it takes to go from the one in force to the new one.
//
// It is pure: two bundles in, a Plan out. So far it knows one step, the reload, with every reason for it; what can be changed
// at run time joins it here. It reads texts, not States, so that a user's own template is planned like ours.
package plan
