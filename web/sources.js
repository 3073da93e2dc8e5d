// Frames of a video file and of the camera.
import { CountingError } from './counter.js';

const CAMERA = { audio: false, video: { facingMode: 'environment', width: { ideal: 1280 } } };
const FRAME_PATIENCE_MS = 5000;

/** Yields { image, seconds } of a video file every so many seconds, until `signal` is aborted. */
export async function* videoFrames(file, every, signal) {
  const video = document.createElement('video');
  video.muted = true;
  video.preload = 'auto';
  video.src = URL.createObjectURL(file);
  try {
    await happens(video, 'loadeddata', signal);
    if (!video.videoWidth) throw new CountingError({ key: 'notVideo' }); // sound alone
    const end = await lengthOf(video, signal);
    for (let step = 0; step === 0 || step * every < end; step++) {
      await seek(video, step * every, signal);
      yield { image: await shownBy(video, signal), seconds: step * every };
    }
  } finally {
    URL.revokeObjectURL(video.src);
    video.removeAttribute('src');
    video.load(); // gives its memory back
  }
}

/** Returns a video's seconds; those that a browser recorded name them only at their end. */
async function lengthOf(video, signal) {
  if (!Number.isFinite(video.duration)) await seek(video, 1e7, signal);
  return Number.isFinite(video.duration) ? video.duration : video.currentTime;
}

async function seek(video, seconds, signal) {
  video.currentTime = seconds;
  await happens(video, 'seeked', signal);
}

/** Yields { image, seconds } of the camera as fast as they are asked for. */
export async function* cameraFrames(signal) {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia(CAMERA);
  } catch {
    throw new CountingError({ key: 'cameraRefused' });
  }
  const video = document.createElement('video');
  try {
    video.srcObject = stream;
    video.muted = video.playsInline = true;
    await video.play();
    const began = performance.now();
    while (!signal.aborted && stream.active) {
      yield { image: await shownBy(video, signal), seconds: (performance.now() - began) / 1000 };
    }
  } finally {
    for (const track of stream.getTracks()) track.stop(); // the camera's light goes out
    video.srcObject = null;
  }
}

/** Returns the frame that a video shows, which a busy browser has only after it said so. */
async function shownBy(video, signal) {
  const last = performance.now() + FRAME_PATIENCE_MS;
  while (performance.now() < last && !signal.aborted) {
    try {
      return await createImageBitmap(video);
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  return createImageBitmap(video);
}

/** Waits for an event of a video; ends with an error if it fails, or if `signal` is aborted. */
async function happens(video, name, signal) {
  const over = new AbortController(); // takes the listeners away
  try {
    await new Promise((resolve, reject) => {
      const listen = (target, event, action) =>
        target.addEventListener(event, action, { signal: over.signal });
      listen(video, name, resolve);
      listen(video, 'error', () => reject(new CountingError({ key: 'notVideo' })));
      listen(signal, 'abort', () => reject(new CountingError({ key: 'stopped' })));
      if (signal.aborted) reject(new CountingError({ key: 'stopped' }));
    });
  } finally {
    over.abort();
  }
}
