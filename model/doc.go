// Package model holds the values that pass between the stages and their merge: rows that refer to each other by key,
// sorted, never changed after they were sent, with no text in them that was not parsed to a type.
//
// A source says what it wants as Offers, one for each owner. Merge settles every conflict between owners, here and nowhere
// else, and gives one State. The State carries what was asked for, never what was found: health stays in Status, which is
// composed for people and is no input of Merge or of rendering.
//
// The package does no I/O and imports none of ours.
package model
